"""The Lambda functions, and what they need."""
