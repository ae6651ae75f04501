"""The two sizes that a deployment comes in. What they cost a month stands in docs/deploy.md."""

from __future__ import annotations

from dataclasses import dataclass

TIMEOUT_SECONDS = 900
"""Lambda's longest run. A load that needs longer hands over to the next invocation."""

HANDOVERS = 12
"""How often a load may hand over (`loader.pipeline.How`); each is a receive of its message."""

ATTEMPTS = 5
"""Attempts of a message that may fail beside its handovers, before it is put aside."""

WAITS = 100
"""Receives in which a message may find that another load has its table's turn (`loader.aws.redelivery`). They come
beside the others, because SQS gives no receive back, and the function counts the attempts that fail by itself."""

BATCH_SIZE = 10
"""Messages that the function gets at once, by default and at most: as many as SQS hands out in one answer, so that no
message waits for a batch to fill. What makes that safe beside large files is in `loader.aws.batch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a deployment is given.

    ``concurrency``: loads at once, the database's budget. One stream of COPY keeps one of its cores busy, and a
    second load fills the pauses in which the first waits for S3; Lambda's least is 2. ``workers``: shards of one object
    that are loaded at once, where there is a fleet: as many as keep the database's cores busy, twice their number.
    ``protected``: the database and the stack cannot be deleted before somebody lifts the protection.
    """

    name: str
    memory_mb: int  # Lambda gives a whole core for 1,769 MB
    concurrency: int
    workers: int
    database_class: str
    storage_gb: int
    storage_limit_gb: int
    multi_az: bool
    protected: bool
    backup_days: int
    nat_gateways: int
    endpoint_zones: int
    log_days: int
    old_version_days: int
    queue_age_minutes: int


SIZES = {
    "dev": Size(
        name="dev",
        memory_mb=1769,
        concurrency=2,
        workers=4,
        database_class="t4g.small",
        storage_gb=20,
        storage_limit_gb=100,
        multi_az=False,
        protected=False,
        backup_days=7,
        nat_gateways=1,
        endpoint_zones=1,
        log_days=30,
        old_version_days=30,
        queue_age_minutes=60,
    ),
    "prod": Size(
        name="prod",
        memory_mb=3538,
        concurrency=4,
        workers=4,
        database_class="m7g.large",
        storage_gb=100,
        storage_limit_gb=1000,
        multi_az=True,
        protected=True,
        backup_days=30,
        nat_gateways=2,
        endpoint_zones=2,
        log_days=365,
        old_version_days=90,
        queue_age_minutes=60,
    ),
}


def size_of(name: str) -> Size:
    """Raises ValueError for a name that is none."""
    if name not in SIZES:
        raise ValueError(f'size "{name}": there are {", ".join(SIZES)}')
    return SIZES[name]


def batch_size_of(told: object) -> int:
    """Messages of a batch, by a context parameter. Raises ValueError for what is no whole number from 1 to
    `BATCH_SIZE`."""
    text = str(told)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= BATCH_SIZE):
        raise ValueError(f'batch_size "{text}": it is a whole number from 1 to {BATCH_SIZE}')
    return int(text)
