"""What is told of the running loader: a topic, alarms that publish to it, and a dashboard.

The function writes its metrics into its log, in the embedded metric format.
What each alarm means, and what to do, stands in docs/operate.md under the alarm's name.
"""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cw
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.database import Database
from infra.fleet import Fleet
from infra.function import LoadFunction
from infra.intake import Intake
from infra.sizes import Size

NAMESPACE = "Loader"
DIMENSIONS = {"service": "loader"}
MINUTE = Duration.minutes(1)
FIVE_MINUTES = Duration.minutes(5)


def loads(name: str, statistic: str = "Sum", color: str | None = None) -> cw.Metric:
    """A metric of the loader's own."""
    return cw.Metric(
        namespace=NAMESPACE,
        metric_name=name,
        dimensions_map=DIMENSIONS,
        statistic=statistic,
        period=FIVE_MINUTES,
        color=color,
    )


class Observability(Construct):
    """``topic``, ``alarms`` by name, ``dashboard``."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        size: Size,
        prefix: str,
        load: LoadFunction,
        intake: Intake,
        database: Database,
        fleet: Fleet | None,
        email: str | None,
    ) -> None:
        super().__init__(scope, id)
        self._size, self._prefix = size, prefix
        self._load, self._intake, self._database, self._fleet = load, intake, database, fleet
        self.key = kms.Key(
            self,
            "Key",
            description="The loader's alarms",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.DESTROY,  # a topic keeps nothing
        )
        self.topic = sns.Topic(self, "Topic", display_name="CSV loader", master_key=self.key, enforce_ssl=True)
        if email:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))
        self.alarms: dict[str, cw.Alarm] = {}
        self._watch_loads()
        self._watch_database()
        if fleet:
            self._watch_fleet(fleet)
        self.dashboard = self._dashboard()

    def _watch_loads(self) -> None:
        waiting = Duration.minutes(self._size.queue_age_minutes)
        self._alarm(
            "DeadLetters",
            self._intake.dead_letters.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
            1,
            "A file was given up: its event is in the dead-letter queue.",
        )
        self._alarm("LoadsFailed", loads("LoadsFailed"), 1, "A load failed; it may be tried again.")
        self._alarm(
            "LoadsSuperseded",
            loads("LoadsSuperseded"),
            1,
            "A file came after a newer version of it was loaded, and was skipped: no record of it is in the table.",
        )
        self._alarm(
            "FunctionErrors",
            self._load.function.metric_errors(period=FIVE_MINUTES),
            1,
            "The function itself failed: killed, out of memory or time, or it could not start.",
        )
        self._alarm(
            "QueueAge",
            self._intake.queue.metric_approximate_age_of_oldest_message(period=FIVE_MINUTES, statistic="Maximum"),
            waiting.to_seconds(),
            f"A file has been waiting, or under way, for {self._size.queue_age_minutes} minutes.",
        )

    def _watch_database(self) -> None:
        instance = self._database.instance
        self._alarm(
            "DatabaseStorage",
            instance.metric_free_storage_space(period=FIVE_MINUTES, statistic="Minimum"),
            self._size.storage_gb * 2**30 // 10,
            "Less than a tenth of the storage that the database began with is free.",
            cw.ComparisonOperator.LESS_THAN_THRESHOLD,
        )
        self._alarm(
            "DatabaseCpu",
            instance.metric_cpu_utilization(period=FIVE_MINUTES),
            90,
            "The database has been busy to the full for half an hour.",
            periods=6,
        )

    def _watch_fleet(self, fleet: Fleet) -> None:
        self._alarm(
            "FleetFailed",
            fleet.metric("ExecutionsFailed"),
            1,
            "A load by many functions failed for good. Its event is gone from the queue: nobody tries it again.",
        )

    def _alarm(
        self,
        name: str,
        metric: cw.IMetric,
        threshold: float,
        description: str,
        comparison: cw.ComparisonOperator = cw.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        *,
        periods: int = 1,
    ) -> None:
        alarm = cw.Alarm(
            self,
            name,
            alarm_name=f"{self._prefix}-{name}",
            alarm_description=f"{description} See docs/operate.md, {name}.",
            metric=metric,
            threshold=threshold,
            comparison_operator=comparison,
            evaluation_periods=periods,
            treat_missing_data=cw.TreatMissingData.NOT_BREACHING,  # no files, no metrics
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))
        self.alarms[name] = alarm

    def _dashboard(self) -> cw.Dashboard:
        function, queue, instance = self._load.function, self._intake.queue, self._database.instance
        dead = self._intake.dead_letters
        board = cw.Dashboard(self, "Dashboard", dashboard_name=self._prefix, default_interval=Duration.days(1))
        board.add_widgets(cw.AlarmStatusWidget(title="Alarms", alarms=list(self.alarms.values()), width=24, height=2))
        board.add_widgets(
            _graph("Loads", loads("Loads"), loads("LoadsFailed", color=cw.Color.RED), loads("LoadsSuperseded")),
            _graph("Rows a second", loads("RowsPerSecond", "Average"), loads("RowsPerSecond", "Maximum")),
            _graph("Lag: seconds from upload to loaded", loads("Lag", "p50"), loads("Lag", "Maximum")),
        )
        board.add_widgets(
            _graph("Rows read", loads("RowsRead")),
            _graph("Rows rejected", loads("RowsRejected", color=cw.Color.ORANGE)),
            _graph("Bytes read", loads("BytesRead"), right=[loads("Seconds", "Average")]),
        )
        board.add_widgets(
            _graph(
                "Queue",
                queue.metric_approximate_number_of_messages_visible(statistic="Maximum"),
                queue.metric_approximate_number_of_messages_not_visible(statistic="Maximum"),
                right=[queue.metric_approximate_age_of_oldest_message(statistic="Maximum")],
            ),
            _graph("Dead letters", dead.metric_approximate_number_of_messages_visible(statistic="Maximum")),
            _graph(
                "Function",
                function.metric_errors(),
                function.metric_throttles(),
                function.metric("ConcurrentExecutions", statistic="Maximum"),
                right=[function.metric_duration(statistic="Maximum")],
            ),
        )
        board.add_widgets(
            _graph("Database: CPU, percent", instance.metric_cpu_utilization()),
            _graph("Database: connections", instance.metric_database_connections(statistic="Maximum")),
            _graph(
                "Database: free bytes",
                instance.metric_free_storage_space(statistic="Minimum"),
                right=[instance.metric_freeable_memory(statistic="Minimum")],
            ),
        )
        if self._fleet:
            board.add_widgets(*_of_fleet(self._fleet))
        return board


def _of_fleet(fleet: Fleet) -> list[cw.GraphWidget]:
    return [
        _graph(
            "Fleet: loads",
            fleet.metric("ExecutionsStarted"),
            fleet.metric("ExecutionsSucceeded"),
            fleet.metric("ExecutionsFailed", color=cw.Color.RED),
            fleet.metric("ExecutionsTimedOut", color=cw.Color.ORANGE),
            fleet.metric("ExecutionsAborted", color=cw.Color.GREY),
        ),
        _graph(
            "Fleet: milliseconds a load",
            fleet.metric("ExecutionTime", "Average"),
            fleet.metric("ExecutionTime", "Maximum"),
        ),
        _graph(
            "Fleet: functions",
            fleet.function.metric_errors(),
            fleet.function.metric_throttles(),
            fleet.function.metric("ConcurrentExecutions", statistic="Maximum"),
            right=[fleet.function.metric_duration(statistic="Maximum")],
        ),
    ]


def _graph(title: str, *left: cw.IMetric, right: list[cw.IMetric] | None = None) -> cw.GraphWidget:
    return cw.GraphWidget(title=title, left=list(left), right=right or [], width=8, height=6)
