"""The fleet: a state machine that has many functions load one object, and a task for merges that are too long for one.

An option of a deployment (``-c fleet=true``), for its endpoints cost something every month. What the states do is in
`infra.machine`; the functions' side of it is `loader.aws.fleet.steps`.
"""

from __future__ import annotations

from aws_cdk import ArnFormat, Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cw
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.database import Database
from infra.image import Image
from infra.machine import definition
from infra.network import PRIVATE
from infra.sizes import TIMEOUT_SECONDS, Size
from infra.storage import PLANS, SPECS, Storage

HANDLER = "loader.aws.fleet.steps.handler"
PYTHON = "/opt/loader/bin/python"
"""In the image: its own entry point is Lambda's runtime client."""

TASK_CPU, TASK_MEMORY = 512, 1024
"""Half a core and a gigabyte: the merge is PostgreSQL's work, and the task waits for it."""

CONTAINER = "loader"


class Fleet(Construct):
    """``machine`` and ``arn``, ``function``, ``task``, ``cluster``; ``role`` of the machine, ``function_role``,
    ``task_role`` and ``start_role``, all of which `infra.grants` fills; ``logs`` of the functions, ``task_logs``,
    ``machine_logs``.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        size: Size,
        prefix: str,
        image: Image,
        vpc: ec2.IVpc,
        functions: ec2.ISecurityGroup,
        tasks: ec2.ISecurityGroup,
        database: Database,
        storage: Storage,
        retention: logs.RetentionDays,
    ) -> None:
        super().__init__(scope, id)
        self._size, self._image, self._retention = size, image, retention
        self._environment = {
            "LOADER_SECRET_ID": database.secret.secret_arn,
            "LOADER_SPECS": f"s3://{storage.name}/{SPECS}",
            "LOADER_PLANS": f"s3://{storage.name}/{PLANS}",
            "PGSSLMODE": "verify-full",
        }
        self.name = f"{prefix}-fleet"
        self.logs, self.function_role = self._log("Logs"), self._role("FunctionRole", "lambda", "loads shards")
        self.function = self._function(vpc, functions)
        self.task_logs = self._log("TaskLogs")
        self.task_role = self._role("TaskRole", "ecs-tasks", "merges what was loaded")
        self.start_role = self._role("StartRole", "ecs-tasks", "starts the task: its image and its log")
        self.cluster = ecs.Cluster(self, "Cluster", vpc=vpc, container_insights_v2=ecs.ContainerInsights.ENABLED)
        self.task = self._task()
        self.machine_logs = self._log("MachineLogs", f"/aws/vendedlogs/states/{self.name}")
        self.role = self._role("Role", "states", "calls the functions and runs the task")
        self.machine = self._machine(vpc, tasks)

    @property
    def arn(self) -> str:
        """Made of the name: the machine's own role has to name it."""
        return Stack.of(self).format_arn(
            service="states",
            resource="stateMachine",
            resource_name=self.name,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )

    def metric(self, name: str, statistic: str = "Sum", color: str | None = None) -> cw.Metric:
        """One of Step Functions' own, of this machine."""
        return cw.Metric(
            namespace="AWS/States",
            metric_name=name,
            dimensions_map={"StateMachineArn": self.machine.attr_arn},
            statistic=statistic,
            period=Duration.minutes(5),
            color=color,
        )

    def _log(self, id: str, name: str | None = None) -> logs.LogGroup:
        """``name``: one below /aws/vendedlogs/ needs no policy of its own for its delivery."""
        return logs.LogGroup(
            self, id, retention=self._retention, log_group_name=name, removal_policy=RemovalPolicy.DESTROY
        )

    def _role(self, id: str, service: str, what: str) -> iam.Role:
        return iam.Role(
            self,
            id,
            assumed_by=iam.ServicePrincipal(f"{service}.amazonaws.com"),
            description=f"The loader's fleet: {what}. What it may do is in infra/grants.py",
        )

    def _function(self, vpc: ec2.IVpc, group: ec2.ISecurityGroup) -> lambda_.Function:
        return lambda_.DockerImageFunction(
            self,
            "Function",
            description="Plans, loads, proves and merges shards of one CSV object",
            code=self._image.running(HANDLER),
            architecture=self._image.architecture,
            memory_size=self._size.memory_mb,
            timeout=Duration.seconds(TIMEOUT_SECONDS),
            role=self.function_role,
            vpc=vpc,
            vpc_subnets=PRIVATE,
            security_groups=[group],
            log_group=self.logs,
            logging_format=lambda_.LoggingFormat.JSON,
            environment=self._environment,
        )

    def _task(self) -> ecs.FargateTaskDefinition:
        """The image with the entry point's command line; what it is to do, the state machine says."""
        arm = self._image.name == "arm64"
        task = ecs.FargateTaskDefinition(
            self,
            "Task",
            family=f"{self.name}-merge",
            cpu=TASK_CPU,
            memory_limit_mib=TASK_MEMORY,
            task_role=self.task_role.without_policy_updates(),
            execution_role=self.start_role.without_policy_updates(),
            runtime_platform=ecs.RuntimePlatform(
                cpu_architecture=ecs.CpuArchitecture.ARM64 if arm else ecs.CpuArchitecture.X86_64,
                operating_system_family=ecs.OperatingSystemFamily.LINUX,
            ),
        )
        self.asset = self._image.asset(self, "Image")
        task.add_container(
            CONTAINER,
            image=ecs.ContainerImage.from_docker_image_asset(self.asset),
            entry_point=[PYTHON, "-m", "loader.aws.fleet.steps"],
            readonly_root_filesystem=True,
            environment={**self._environment, "AWS_DEFAULT_REGION": Stack.of(self).region},  # a function is told it
            logging=ecs.LogDrivers.aws_logs(stream_prefix="merge", log_group=self.task_logs),
        )
        return task

    def _machine(self, vpc: ec2.IVpc, tasks: ec2.ISecurityGroup) -> sfn.CfnStateMachine:
        """Not by CDK's own classes, which grant what they think fit, and write what nobody could read in a review."""
        subnets = vpc.select_subnets(subnet_group_name=PRIVATE.subnet_group_name).subnet_ids
        machine = sfn.CfnStateMachine(
            self,
            "Machine",
            state_machine_name=self.name,
            state_machine_type="STANDARD",
            role_arn=self.role.role_arn,
            definition=definition(workers=self._size.workers, seconds=TIMEOUT_SECONDS, subnets=len(subnets)),
            definition_substitutions={
                "Function": self.function.function_arn,
                "Cluster": self.cluster.cluster_arn,
                "Task": self.task.task_definition_arn,
                "SecurityGroup": tasks.security_group_id,
                **{f"Subnet{number}": subnet for number, subnet in enumerate(subnets, 1)},
            },
            logging_configuration=sfn.CfnStateMachine.LoggingConfigurationProperty(
                level="ALL",
                include_execution_data=False,  # it may hold a spec, and messages of what stood in a file
                destinations=[
                    sfn.CfnStateMachine.LogDestinationProperty(
                        cloud_watch_logs_log_group=sfn.CfnStateMachine.CloudWatchLogsLogGroupProperty(
                            log_group_arn=self.machine_logs.log_group_arn
                        )
                    )
                ],
            ),
            tracing_configuration=sfn.CfnStateMachine.TracingConfigurationProperty(enabled=True),
        )
        machine.node.add_dependency(self.role)
        return machine
