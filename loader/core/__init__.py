"""The words that everybody speaks: errors, reports, types and deadlines."""
