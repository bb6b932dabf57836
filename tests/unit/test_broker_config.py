"""Topology, rights and definitions, without a broker."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError, convert

from tunemesh.broker_config import topology
from tunemesh.broker_config.credentials import PORTS, load_credentials
from tunemesh.broker_config.declare import ensure_topology
from tunemesh.broker_config.definitions import Listener, definitions, password_hash, rabbitmq_conf
from tunemesh.broker_config.node import PrivateNode
from tunemesh.broker_config.roles import rights_of
from tunemesh.shared.accounts import ROLES, Account, Role, account_of
from tunemesh.shared.errors import BadInput, BrokerRefused, BrokerUnavailable
from tunemesh.shared.messages import QueueName

PASSWORDS: dict[Role, str] = {role: f"secret of {role}" for role in ROLES}


def account(user: str) -> Account:
    found = account_of(user)
    assert found is not None
    return found


def may(user: str, right: str, name: str) -> bool:
    return re.search(getattr(rights_of(account(user)), right), name) is not None


def may_use_key(user: str, right: str, exchange: str, key: str) -> bool:
    topics = {topic.exchange: topic for topic in rights_of(account(user)).topics}
    return re.search(getattr(topics[exchange], right), key) is not None


def test_every_binding_joins_things_that_exist() -> None:
    exchanges = {exchange.name for exchange in topology.EXCHANGES}
    queues = {queue.name for queue in topology.QUEUES}
    assert {binding.exchange for binding in topology.BINDINGS} <= exchanges
    assert {binding.queue for binding in topology.BINDINGS} == queues


def test_only_one_coordinator_is_active_at_a_time() -> None:
    queue = next(queue for queue in topology.QUEUES if queue.name == topology.COORDINATOR)
    assert queue.arguments["x-single-active-consumer"] is True


def test_dead_letters_cannot_fill_the_disk() -> None:
    queue = next(queue for queue in topology.QUEUES if queue.name == topology.DEAD_LETTER)
    assert {"x-max-length", "x-max-length-bytes", "x-message-ttl"} <= set(queue.arguments)


PEOPLE = ["client", "client.acme.ann", "client.acme.bob", "client.Acme.ann", "operator", "operator.eve"]


@pytest.mark.parametrize("user", PEOPLE)
def test_answers_go_into_a_queue_of_whoever_asks(user: str) -> None:
    for name in (f"{user}.000", f"{user}.f0e"):
        assert topology.is_own_queue(account(user), name)
        assert all(may(user, right, name) for right in ("configure", "read", "write"))


@pytest.mark.parametrize("user", PEOPLE)
@pytest.mark.parametrize(
    "name",
    [
        *(queue.name for queue in topology.QUEUES),
        *("profile-gpu-0", "coordinator.status.1f0", "monitor.1f0", "requests.acme", "job.acme.x", ""),
        *("amq.gen-1", "client", "client.", "client.1f", "client.1f00", "client.1F0", "xclient.1f0"),
        *("client.1f0\n1", "client.acme.1f0", "client.acme.cid.1f0", "client.acme.ann.1f0.1f0"),
        "client.acmeXann.1f0",
    ],
)
def test_answers_go_into_no_other_queue(user: str, name: str) -> None:
    assert not topology.is_own_queue(account(user), name)
    assert not any(may(user, right, name) for right in ("configure", "read", "write"))


@pytest.mark.parametrize("user", PEOPLE)
def test_nobody_has_a_queue_of_somebody_else(user: str) -> None:
    for other in set(PEOPLE) - {user}:
        assert not topology.is_own_queue(account(user), f"{other}.1f0")
        assert not may(user, "configure", f"{other}.1f0")


def test_the_broker_dead_letters_nothing_that_coordinators_did_not_read() -> None:
    queue = next(queue for queue in topology.QUEUES if queue.name == topology.COORDINATOR)
    assert "x-dead-letter-exchange" not in queue.arguments


def test_no_queue_drops_what_was_delivered_often() -> None:
    for queue in (*topology.QUEUES, topology.stage_queue("profile-gpu-0")):
        classic, quorum = queue.declared("classic"), queue.declared("quorum")
        assert classic["x-queue-type"] == "classic"
        assert "x-delivery-limit" not in classic  # they do not count
        assert quorum["x-queue-type"] == "quorum"
        assert quorum["x-delivery-limit"] == 2**31 - 1  # a word for none is not taken by every version


def test_a_device_has_one_worker_whatever_the_type_of_its_queue() -> None:
    """Quorum queues do not listen to a consumer that says it is the only one."""
    device, builds = topology.stage_queue("profile-gpu-0"), topology.stage_queue("build-cpu")
    assert device.declared("quorum")["x-single-active-consumer"] is True
    assert "x-single-active-consumer" not in device.declared("classic")
    assert "x-single-active-consumer" not in builds.declared("quorum")


@given(st.text(alphabet="abz019-A_.\n", max_size=70))
def test_stage_queues_are_named_as_the_wire_format_says(device: str) -> None:
    name = f"profile-{device}"
    try:
        convert(name, QueueName)
        valid = not name.endswith("\n")
    except ValidationError:
        valid = False
    if valid:
        assert topology.device_queue(device) == name
        assert topology.stage_binding(name) == topology.Binding(topology.STEPS, name, name)
    else:
        with pytest.raises(ValueError, match="not the name of a stage queue"):
            topology.device_queue(device)


def test_a_worker_touches_nothing_but_its_work() -> None:
    for name in ("results", "status", "dead"):
        assert may("worker", "write", f"tunemesh.{name}")
    for name in ("tunemesh.steps", "tunemesh.clients", "tunemesh.events", "amq.default", "coordinator"):
        assert not may("worker", "write", name)
    for name in ("build-cpu", "model-update", "profile-gpu-0", "build-cpu.toy", "model-update.a+b"):
        assert may("worker", "read", name)
        assert not may("worker", "configure", name)
    for name in ("coordinator", "dead-letter", "xbuild-cpu", "build-cpu-2", "build-cpu.", "client.a"):
        assert not may("worker", "read", name)


@pytest.mark.parametrize("user", PEOPLE)
def test_a_client_publishes_to_the_mesh_and_to_nothing_else(user: str) -> None:
    assert may(user, "write", "tunemesh.clients")
    for exchange in topology.EXCHANGES:
        if exchange.name != topology.CLIENTS:
            assert not may(user, "write", exchange.name)
    for name in ("amq.default", "amq.topic", "xtunemesh.clients", "tunemesh.clientsx"):
        assert not may(user, "write", name)


def test_a_client_asks_and_follows_for_its_own_tenant_alone() -> None:
    asks = [topology.client_key(kind, "acme") for kind in ("request", "cancel", "query", "history")]
    follows = [topology.event_key("acme", "j1", kind) for kind in ("*", "done")]
    assert all(may_use_key("client.acme.ann", "write", topology.CLIENTS, key) for key in asks)
    assert all(may_use_key("client.acme.ann", "read", topology.EVENTS, key) for key in follows)
    for user in ("client", "client.ac.ann", "client.acmee.ann", "client.ACME.ann"):
        assert not any(may_use_key(user, "write", topology.CLIENTS, key) for key in asks)
        assert not any(may_use_key(user, "read", topology.EVENTS, key) for key in follows)
    for key in ("#", "job.#", "job.*.*.*", "job.*.j1.*", "job.acme.#", "job.acme.j1", "*.acme.*.*"):
        assert not may_use_key("client.acme.ann", "read", topology.EVENTS, key)
    for key in ("strategy", "learn", "query", "query.", "query.*", "query.acme.x", "x.acme", "query.-"):
        assert not may_use_key("client.acme.ann", "write", topology.CLIENTS, key)


def test_operators_follow_all_and_say_how_the_mesh_works() -> None:
    for user in ("operator", "operator.eve"):
        for key in ("strategy", "learn", "query.-", "request.-"):
            assert may_use_key(user, "write", topology.CLIENTS, key)
        for key in ("job.*.j1.*", "job.acme.j1.*", "job.-.j1.*"):
            assert may_use_key(user, "read", topology.EVENTS, key)
        assert not may_use_key(user, "read", topology.EVENTS, "#")


@pytest.mark.parametrize(
    "user",
    [
        *(
            "",
            "client.acme",
            "client.acme.",
            "client..ann",
            "client.-.ann",
            "client.a.b.c",
            "guest",
            "Client",
        ),
        *("client.acme.ann\n", "operator.", "operator.a.b", "worker.a.b", "client.a*.b", "client.ä.b"),
    ],
)
def test_other_names_are_nobodys(user: str) -> None:
    assert account_of(user) is None
    assert account_of(user, own="coordinator") is None


def test_whoever_shares_the_user_of_the_coordinator_is_an_operator() -> None:
    for user in ("guest", "worker.a.b"):
        assert account_of(user, own=user) == Account(user, "operator")
        assert account_of(user, own=user).bound_to is None  # type: ignore[union-attr]
    # No right comes of a coordinator that is logged in as somebody's client.
    ann = "client.acme.ann"
    assert account_of(ann, own=ann) == Account(ann, "client", "acme")


def test_a_user_can_declare_so_many_queues_and_connections() -> None:
    rights = rights_of(account("client.acme.ann"))
    assert set(rights.limits) == {"max-connections", "max-channels"}
    assert len([n for n in range(16**4) if re.search(rights.configure, f"client.acme.ann.{n:03x}")]) == 4096


ENGINES = st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True)


@pytest.mark.parametrize(
    ("resource", "engines", "queue"),
    [
        ("build-cpu", ["metaschedule", "template", "mock"], "build-cpu"),
        ("build-cpu", ["metaschedule", "template"], "build-cpu"),
        ("model-update", ["mock", "template", "metaschedule"], "model-update"),
        ("build-cpu", ["metaschedule"], "build-cpu.metaschedule"),
        ("model-update", ["mock"], "model-update.mock"),
        ("build-cpu", [], "build-cpu.mock"),
        ("build-cpu", ["toy", "mock"], "build-cpu.toy"),
        ("build-cpu", ["toy", "metaschedule", "mock"], "build-cpu.metaschedule+toy"),
        ("profile-gpu-0", ["toy"], "profile-gpu-0"),
        ("profile-gpu-0", [], "profile-gpu-0"),
    ],
)
def test_workers_that_serve_other_engines_have_a_queue_of_their_own(
    resource: str, engines: list[str], queue: str
) -> None:
    assert topology.work_queue(resource, engines) == queue


@given(st.sampled_from(["model-update", "build-cpu"]), st.sets(ENGINES, max_size=5))
def test_every_queue_for_engines_is_one_that_all_roles_know(resource: str, engines: set[str]) -> None:
    queue = topology.work_queue(resource, engines)
    assert convert(queue, QueueName) == queue
    assert len(queue) <= 255  # AMQP
    assert may("worker", "read", queue)
    own = engines | {"mock"} == topology.OWN_ENGINES
    assert may("coordinator", "configure", queue) is not own
    assert may("coordinator", "write", queue) is not own
    # A queue is declared with a dead-letter exchange by whoever may read it.
    assert may("coordinator", "read", queue)


@pytest.mark.parametrize(
    "name", ["model-update", "build-cpu", "build-cpu.toy+x", "profile-gpu-0", "coordinator"]
)
def test_what_belongs_to_a_cell_has_its_name_in_front_and_is_known_to_its_roles(name: str) -> None:
    queue = topology.in_cell(name, "b-2")
    assert queue == f"cell.b-2.{name}"
    assert all(may("coordinator", right, queue) for right in ("configure", "write", "read"))
    assert may("worker", "read", queue) is (name != "coordinator")
    assert not any(may("worker", right, queue) for right in ("configure", "write"))
    for role in ("client", "operator", "monitor"):
        assert not any(may(role, right, queue) for right in ("configure", "write", "read"))
    # No tenant, no user, and no engine has such a queue.
    assert not re.fullmatch(topology.STAGE_QUEUE_PATTERN, queue)


def test_a_mesh_without_cells_calls_everything_by_its_plain_name() -> None:
    assert topology.in_cell("build-cpu", "") == "build-cpu"
    assert topology.coordinator_queue() in topology.QUEUES
    assert topology.result_key("build") == "result.build"
    assert topology.status_route() == (topology.STATUS, "")
    assert topology.result_key("build", "b") == "cell.b.result.build"
    assert topology.status_route("b") == (topology.RESULTS, "cell.b.status")
    assert topology.stage_queue("profile-x", "b").exclusive


@given(st.lists(st.sets(ENGINES, max_size=5), min_size=2, max_size=2))
def test_workers_share_a_queue_if_and_only_if_they_serve_the_same_engines(engines: list[set[str]]) -> None:
    one, other = (topology.work_queue("build-cpu", each) for each in engines)
    assert (one == other) is (engines[0] | {"mock"} == engines[1] | {"mock"})


@pytest.mark.parametrize(
    ("resource", "engines"),
    [("build", ["toy"]), ("build-cpu", ["Toy"]), ("build-cpu", ["a.b"]), ("build-cpu", [*"abcdef"])],
)
def test_what_makes_no_name_of_a_queue_is_refused(resource: str, engines: list[str]) -> None:
    with pytest.raises(ValueError, match="not the name of a stage queue"):
        topology.work_queue(resource, engines)


def test_only_the_admin_may_change_the_fixed_topology() -> None:
    fixed = [exchange.name for exchange in topology.EXCHANGES] + [queue.name for queue in topology.QUEUES]
    for role in ROLES:
        changed = {name for name in fixed if may(role, "configure", name)}
        # The coordinator looks of what type its queue is.
        assert changed == {"admin": set(fixed), "coordinator": {topology.COORDINATOR}}.get(role, set())


def test_definitions_are_the_same_but_for_the_salt() -> None:
    first, second = definitions(PASSWORDS), definitions(PASSWORDS)
    hashes = [[user.pop("password_hash") for user in each["users"]] for each in (first, second)]
    assert first == second
    assert not set(hashes[0]) & set(hashes[1])


def test_definitions_hold_no_password() -> None:
    assert "secret of" not in str(definitions(PASSWORDS))


def test_definitions_are_for_the_virtual_host_asked_for() -> None:
    made = definitions(PASSWORDS, vhost="other")
    assert made["vhosts"] == [{"name": "other"}]
    parts = [part for key, part in made.items() if key not in ("users", "vhosts")]
    assert {entry["vhost"] for part in parts for entry in part} == {"other"}


def test_a_role_without_password_is_refused() -> None:
    with pytest.raises(ValueError, match="no password for worker"):
        definitions({**PASSWORDS, "worker": ""})


def test_password_hash_is_what_rabbitmq_computes() -> None:
    raw = base64.b64decode(password_hash("pw"))
    assert raw[4:] == hashlib.sha256(raw[:4] + b"pw").digest()


def test_rabbitmq_conf_listens_where_it_is_told() -> None:
    conf = rabbitmq_conf("/d.json", *(Listener("127.0.0.1", port) for port in (1, 2, 3)))
    assert "listeners.tcp.default = 127.0.0.1:1\n" in conf
    assert "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = 2\n" in conf
    assert "prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = 3\n" in conf
    assert "max_message_size = 1048576\n" in conf


def test_a_node_of_a_cluster_finds_the_others_and_waits_when_it_is_cut_off() -> None:
    listener = Listener("127.0.0.1", 1)
    conf = rabbitmq_conf(None, listener, listener, peers=("a@x", "b@y"))
    assert "classic_config.nodes.1 = a@x\n" in conf
    assert "classic_config.nodes.2 = b@y\n" in conf
    assert "cluster_partition_handling = pause_minority\n" in conf
    # What one node declares before the others are there would have no copies.
    assert "definitions" not in conf.partition("\n")[2]
    assert "cluster" not in rabbitmq_conf("/d.json", listener, listener)


class FakeBroker:
    """A broker that has ``names`` and lets the user configure or not."""

    def __init__(self, names: set[str], configure: bool) -> None:
        self.names, self.configure = names, configure
        self.bound: list[tuple[str, str, str]] = []
        self.differing = ""
        self.types: dict[str, topology.Argument] = {}
        """Of the queues."""

    def _declare(self, name: str) -> None:
        if not self.configure:
            raise PermissionError(name)
        if name == self.differing:
            raise ValueError(f"queue {name} has other arguments")
        self.names.add(name)

    def declare_exchange(
        self, name: str, kind: str, arguments: Mapping[str, topology.Argument], durable: bool
    ) -> None:
        assert durable
        self._declare(name)

    def declare_queue(self, name: str, arguments: Mapping[str, topology.Argument], durable: bool) -> None:
        assert durable
        self._declare(name)
        if self.types.setdefault(name, arguments["x-queue-type"]) != arguments["x-queue-type"]:
            raise ValueError(f"queue {name} has other arguments")

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self.bound.append((exchange, queue, key))

    def exists_exchange(self, name: str) -> None:
        if name not in self.names:
            raise LookupError(name)

    exists_queue = exists_exchange


EVERYTHING = {exchange.name for exchange in topology.EXCHANGES} | {queue.name for queue in topology.QUEUES}


def test_an_administrator_declares_what_is_missing() -> None:
    broker = FakeBroker(set(), configure=True)
    ensure_topology(broker)
    assert broker.names == EVERYTHING
    assert broker.bound == [(one.exchange, one.queue, one.key) for one in topology.BINDINGS]


def test_others_only_look() -> None:
    broker = FakeBroker(set(EVERYTHING), configure=False)
    ensure_topology(broker)
    assert broker.bound == []


@pytest.mark.parametrize("kind", topology.QUEUE_TYPES)
def test_what_is_declared_later_is_of_the_type_that_the_broker_was_set_up_with(kind: str) -> None:
    broker = FakeBroker(set(EVERYTHING), configure=True)
    broker.types = {queue.name: kind for queue in topology.QUEUES}
    assert ensure_topology(broker) == kind


def test_what_is_missing_is_named_with_the_remedy() -> None:
    broker = FakeBroker(EVERYTHING - {topology.STEPS, topology.BUILD_CPU}, configure=False)
    with pytest.raises(BrokerUnavailable) as caught:
        ensure_topology(broker)
    text = str(caught.value)
    assert "lacks exchange tunemesh.steps, queue build-cpu" in text
    assert "tunemesh broker definitions" in text
    assert "\n" not in text


def test_a_different_topology_is_not_used() -> None:
    broker = FakeBroker(set(EVERYTHING), configure=True)
    broker.differing = topology.COORDINATOR
    with pytest.raises(BrokerRefused, match="queue coordinator has other arguments"):
        ensure_topology(broker)


def test_an_identity_stays_and_is_private(tmp_path: Path) -> None:
    made = load_credentials(tmp_path, keep_ports=False)
    assert load_credentials(tmp_path, keep_ports=False) == made
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    ports = {made.amqp_port, made.management_port, made.metrics_port, made.dist_port, made.epmd_port}
    assert len(ports) == 5
    assert all(port in PORTS for port in ports)


def test_a_missing_server_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunemesh.broker_config.node.os.access", lambda *_: False)
    with pytest.raises(BadInput, match=r"apt-get install .*rabbitmq-server"):
        PrivateNode(tmp_path).start()


@pytest.mark.parametrize(("asked", "threads"), [({}, 2), ({"schedulers": 8}, 3), ({"schedulers": 1}, 1)])
def test_a_node_has_as_many_threads_as_are_asked_for_and_no_more_than_cores(
    tmp_path: Path, asked: dict[str, int], threads: int
) -> None:
    node = PrivateNode(tmp_path, cpus={0, 1, 2}, **asked)
    node._identity = load_credentials(tmp_path, keep_ports=False)
    assert f" +S {threads}:{threads}" in node.environment()["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]


def test_a_folder_of_before_gets_the_passwords_of_roles_that_came_later(tmp_path: Path) -> None:
    before = load_credentials(tmp_path, keep_ports=False)
    older = {role: password for role, password in before.passwords.items() if role != "operator"}
    path = tmp_path / "credentials.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(before, passwords=older)))
    after = load_credentials(tmp_path, keep_ports=True)
    assert after.passwords["operator"]
    assert msgspec.structs.replace(after, passwords=older) == msgspec.structs.replace(before, passwords=older)
    assert {role: after.passwords[role] for role in older} == older
    assert load_credentials(tmp_path, keep_ports=True) == after
