"""The AWS side on this machine: S3, SQS and Secrets Manager emulated, and the function under its real runtime client.

``python -m twin`` (``make demo``) sends a real file all the way.
"""
