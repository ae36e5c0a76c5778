"""Between the messages of settings.proto, which say what a container shall be, and the values of the core."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from orlop_protos.orlop.engine.v1 import containers_pb2, settings_pb2
from orlopd.core.engine.model import Health, HealthStatus
from orlopd.core.healthcheck import Healthcheck
from orlopd.core.oci import (
    BlockLimit,
    HookStage,
    IdRange,
    Namespace,
    Namespaces,
    Resources,
    Security,
    SpecDevice,
    SpecHook,
    SpecRlimit,
    UserNamespace,
)
from orlopd.core.spec_changes import SpecChange
from orlopd.plugin.errors import InvalidArgument
from orlopd.services.convert import to_timestamp

_NAMESPACES = {
    settings_pb2.NAMESPACE_MODE_UNSPECIFIED: Namespace.DEFAULT,
    settings_pb2.NAMESPACE_MODE_PRIVATE: Namespace.PRIVATE,
    settings_pb2.NAMESPACE_MODE_HOST: Namespace.HOST,
}
_HEALTH = {
    HealthStatus.STARTING: settings_pb2.HEALTH_STATUS_STARTING,
    HealthStatus.HEALTHY: settings_pb2.HEALTH_STATUS_HEALTHY,
    HealthStatus.UNHEALTHY: settings_pb2.HEALTH_STATUS_UNHEALTHY,
}
_TIMES = ("interval", "timeout", "start_period", "start_interval")

_STAGES = {
    settings_pb2.HOOK_STAGE_PRESTART: HookStage.PRESTART,
    settings_pb2.HOOK_STAGE_CREATE_RUNTIME: HookStage.CREATE_RUNTIME,
    settings_pb2.HOOK_STAGE_CREATE_CONTAINER: HookStage.CREATE_CONTAINER,
    settings_pb2.HOOK_STAGE_START_CONTAINER: HookStage.START_CONTAINER,
    settings_pb2.HOOK_STAGE_POSTSTART: HookStage.POSTSTART,
    settings_pb2.HOOK_STAGE_POSTSTOP: HookStage.POSTSTOP,
}

# --- In --------------------------------------------------------------------------------------------------


def spec_settings(message: containers_pb2.ContainerSpec) -> dict[str, Any]:
    """The arguments of a :class:`orlopd.core.engine.ContainerSpec` that settings.proto has messages for.

    :raises InvalidArgument: an enum's value that is not known, or a device without a source
    """
    security = message.security
    return {
        "user_namespace": user_namespace(message.user_namespace),
        "devices": tuple(_device(each) for each in message.devices),
        "healthcheck": healthcheck(message.healthcheck) if message.HasField("healthcheck") else None,
        "rlimits": tuple(SpecRlimit(each.name, each.soft, each.hard) for each in message.rlimits),
        "sysctls": dict(message.sysctls),
        "annotations": dict(message.annotations),
        "security": Security(
            no_new_privileges=security.no_new_privileges,
            seccomp=security.seccomp,
            apparmor=security.apparmor,
            unmask=security.unmask,
            privileged=security.privileged,
        ),
        "group_add": tuple(message.group_add),
        "shm_bytes": message.shm_bytes,
        "namespaces": Namespaces(
            **{
                kind: _namespace(getattr(message.namespaces, kind))
                for kind in ("pid", "ipc", "uts", "cgroup")
            }
        ),
        "oom_score_adj": message.oom_score_adj if message.HasField("oom_score_adj") else None,
        "hooks": tuple(_hook(each) for each in message.hooks),
    }


def resources(message: containers_pb2.Resources) -> Resources:
    """Limits."""
    return Resources(
        memory_bytes=message.memory_bytes,
        nano_cpus=message.nano_cpus,
        pids=message.pids,
        memory_swap_bytes=message.memory_swap_bytes,
        memory_reservation_bytes=message.memory_reservation_bytes,
        cpu_shares=message.cpu_shares,
        cpu_quota=message.cpu_quota,
        cpu_period=message.cpu_period,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        block_weight=message.block_weight,
        block_limits=tuple(
            BlockLimit(
                each.path,
                each.weight,
                each.read_bytes,
                each.write_bytes,
                each.read_operations,
                each.write_operations,
            )
            for each in message.block_limits
        ),
        huge_pages=dict(message.huge_pages),
        unified=dict(message.unified),
        device_rules=tuple(message.device_rules),
    )


def user_namespace(message: settings_pb2.UserNamespace) -> UserNamespace:
    """A user namespace, an empty one for none."""

    def ranges(messages: Any) -> tuple[IdRange, ...]:
        return tuple(IdRange(each.inside, each.outside, each.size) for each in messages)

    return UserNamespace(ranges(message.uids), ranges(message.gids), message.remap)


def healthcheck(message: settings_pb2.Healthcheck) -> Healthcheck:
    """:raises InvalidArgument: a negative time"""
    times: dict[str, float] = {}
    for name in _TIMES:
        value: Duration = getattr(message, name)
        times[name] = value.seconds + value.nanos / 1_000_000_000
        if times[name] < 0:
            raise InvalidArgument(f"health check: {name} is negative", reason="BAD_HEALTHCHECK")
    return Healthcheck(tuple(message.test), **times, retries=message.retries)


def _device(message: settings_pb2.Device) -> SpecDevice:
    if message.WhichOneof("source") is None or not (message.path or message.cdi):
        raise InvalidArgument("a device says neither its path nor its name", reason="BAD_DEVICE")
    return SpecDevice(message.path, message.cdi, message.target, message.permissions)


def _hook(message: settings_pb2.Hook) -> SpecHook:
    if message.stage not in _STAGES:
        raise InvalidArgument(f"hook stage {message.stage} is not known to this daemon", reason="BAD_HOOK")
    stage = _STAGES[message.stage]
    return SpecHook(stage, message.path, tuple(message.args), tuple(message.env), message.timeout_seconds)


def _namespace(value: Any) -> Namespace:
    if value not in _NAMESPACES:
        raise InvalidArgument(f"namespace mode {value} is not known to this daemon")
    return _NAMESPACES[value]


# --- Out -------------------------------------------------------------------------------------------------


def spec_settings_message(spec: Any) -> dict[str, Any]:
    """The fields of a ContainerSpec message for what :func:`spec_settings` reads."""
    fields: dict[str, Any] = {
        "devices": [_device_message(each) for each in spec.devices],
        "healthcheck": healthcheck_message(spec.healthcheck) if spec.healthcheck else None,
        "rlimits": [
            settings_pb2.Rlimit(name=each.name, soft=each.soft, hard=each.hard) for each in spec.rlimits
        ],
        "sysctls": dict(spec.sysctls),
        "annotations": dict(spec.annotations),
        "group_add": spec.group_add,
        "shm_bytes": spec.shm_bytes,
        "oom_score_adj": spec.oom_score_adj,
        "hooks": [_hook_message(each) for each in spec.hooks],
    }
    if spec.user_namespace:
        fields["user_namespace"] = settings_pb2.UserNamespace(
            uids=[_range_message(each) for each in spec.user_namespace.uids],
            gids=[_range_message(each) for each in spec.user_namespace.gids],
            remap=spec.user_namespace.remap,
        )
    if spec.security != Security():
        security = spec.security
        fields["security"] = settings_pb2.Security(
            no_new_privileges=security.no_new_privileges,
            seccomp=security.seccomp,
            apparmor=security.apparmor,
            unmask=security.unmask,
            privileged=security.privileged,
        )
    if spec.namespaces != Namespaces():
        numbers = {value: number for number, value in _NAMESPACES.items()}
        fields["namespaces"] = settings_pb2.Namespaces(
            **{kind: numbers[getattr(spec.namespaces, kind)] for kind in ("pid", "ipc", "uts", "cgroup")}
        )
    return fields


def resources_message(value: Resources) -> containers_pb2.Resources:
    """Limits."""
    return containers_pb2.Resources(
        memory_bytes=value.memory_bytes,
        nano_cpus=value.nano_cpus,
        pids=value.pids,
        memory_swap_bytes=value.memory_swap_bytes,
        memory_reservation_bytes=value.memory_reservation_bytes,
        cpu_shares=value.cpu_shares,
        cpu_quota=value.cpu_quota,
        cpu_period=value.cpu_period,
        cpuset_cpus=value.cpuset_cpus,
        cpuset_mems=value.cpuset_mems,
        block_weight=value.block_weight,
        block_limits=[
            settings_pb2.BlockLimit(
                path=each.path,
                weight=each.weight,
                read_bytes=each.read_bytes,
                write_bytes=each.write_bytes,
                read_operations=each.read_operations,
                write_operations=each.write_operations,
            )
            for each in value.block_limits
        ],
        huge_pages=dict(value.huge_pages),
        unified=dict(value.unified),
        device_rules=value.device_rules,
    )


def healthcheck_message(value: Healthcheck) -> settings_pb2.Healthcheck:
    """A check; what is not said is unset."""
    message = settings_pb2.Healthcheck(test=value.test, retries=value.retries)
    for name in _TIMES:
        seconds: float = getattr(value, name)
        if seconds:
            getattr(message, name).FromNanoseconds(round(seconds * 1_000_000_000))
    return message


def health_message(value: Health) -> settings_pb2.Health:
    """What checks said."""
    return settings_pb2.Health(
        status=_HEALTH[value.status],
        failing_streak=value.failing_streak,
        log=[
            settings_pb2.HealthResult(
                started_at=to_timestamp(each.started_at),
                ended_at=to_timestamp(each.ended_at),
                exit_code=each.code,
                output=each.output,
            )
            for each in value.log
        ],
    )


def change_message(value: SpecChange) -> settings_pb2.SpecChange:
    """What a plugin changed."""
    return settings_pb2.SpecChange(plugin=value.plugin, path=value.path, operation=value.operation)


def _range_message(value: IdRange) -> settings_pb2.IdRange:
    return settings_pb2.IdRange(inside=value.inside, outside=value.outside, size=value.size)


def _hook_message(value: SpecHook) -> settings_pb2.Hook:
    (stage,) = (number for number, each in _STAGES.items() if each is value.stage)
    return settings_pb2.Hook(
        stage=stage, path=value.path, args=value.args, env=value.env, timeout_seconds=value.timeout
    )


def _device_message(value: SpecDevice) -> settings_pb2.Device:
    message = settings_pb2.Device(target=value.target, permissions=value.permissions)
    if value.cdi:
        message.cdi = value.cdi
    else:
        message.path = value.path
    return message
