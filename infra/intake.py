"""The queue between the bucket and the function, and the dead-letter queue behind it.

It gives PostgreSQL back-pressure, an event 14 days of patience, and a failed one a place to be
sent again from.
"""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.sizes import ATTEMPTS, HANDOVERS, TIMEOUT_SECONDS, WAITS

PATIENCE = Duration.days(14)  # SQS keeps nothing for longer


class Intake(Construct):
    """``queue`` and ``dead_letters``, both standard: S3 cannot notify a FIFO queue."""

    def __init__(self, scope: Construct, id: str, *, prefix: str) -> None:
        super().__init__(scope, id)
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            queue_name=f"{prefix}-dead-letters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=PATIENCE,
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            queue_name=f"{prefix}-incoming",
            encryption=sqs.QueueEncryption.SQS_MANAGED,  # a key shared with the bucket would make a cycle
            enforce_ssl=True,
            retention_period=PATIENCE,
            # Lambda's guide: at least six times the function's time-out. Loads that fail or hand over do not wait for
            # it, the handler shows their messages again itself; only those of an invocation that was killed do.
            visibility_timeout=Duration.seconds(6 * TIMEOUT_SECONDS),
            # The function sends a message on by itself once its load cannot succeed (`loader.aws.redelivery`). This is
            # for messages that it could not send, and for those that found their table's turn taken each time.
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=self.dead_letters, max_receive_count=HANDOVERS + ATTEMPTS + WAITS
            ),
        )
