"""Whether what was left of the environment still works: imported, and used once, in the build."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from decimal import Decimal

import loader

warnings.simplefilter("error")

for found in pkgutil.walk_packages(loader.__path__, "loader."):
    if found.name != "loader.__main__":
        importlib.import_module(found.name)

import boto3  # noqa: E402
import botocore.compat  # noqa: E402
import pandas as pd  # noqa: E402
import pgpq  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.csv  # noqa: E402
import pyarrow.dataset  # noqa: E402
import pyarrow.parquet  # noqa: E402
from aws_lambda_powertools import Metrics  # noqa: E402

from loader.kernel import compiled  # noqa: E402
from loader.sources import crc  # noqa: E402

assert compiled.COMPILED, (
    "the kernel was not compiled: its compiler's messages are in the output of pip wheel --verbose"
)
batch = pa.record_batch({"a": pa.array([Decimal("1.50"), None]), "b": ["x", "y"]})
assert pc.sum(batch["a"]).as_py() == Decimal("1.50")
frame = batch.to_pandas()
assert isinstance(frame, pd.DataFrame)
assert pa.RecordBatch.from_pandas(frame[["b"]])["b"].to_pylist() == ["x", "y"]
assert pgpq.ArrowToPostgresBinaryEncoder(batch.schema).write_header().startswith(b"PGCOPY")
assert not botocore.compat.HAS_CRT  # a start would import it
assert crc.updater("crc64nvme")(b"123456789", 0) == 0xAE8B14860A799888
assert crc.updater("crc32c")(b"123456789", 0) == 0xE3069283
for service in ("s3", "sqs", "secretsmanager", "lambda", "sts"):
    boto3.client(service, region_name="eu-central-1")
metrics = Metrics(namespace="Loader", service="loader")
metrics.add_metric(name="Loads", unit="Count", value=1)
assert metrics.serialize_metric_set()["Loads"] == [1.0]
