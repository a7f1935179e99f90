"""Files damaged at random, for tests that nothing a file holds brings a reader down."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile

# of each kind of file; the nightly session asks for more
MUTATIONS = int(os.environ.get("DISTILL3D_MUTATIONS", "200"))
KINDS = ("flip", "change", "delete", "insert", "cut", "number", "word", "float")
HUGE = (0, 1, 255, 257, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 400_000_000, 10**17, 10**30)
ODD = (float("nan"), float("inf"), float("-inf"), 3e38, -1.0, 0.0, -0.0, 1e-45, 1e9)
ANYTHING = (
    None,
    True,
    -1,
    0,
    7,
    1.5,
    1e308,
    10**400,
    "",
    "POSITION",
    [],
    [[]],
    {},
    {"POSITION": {}},
    [0, -1],
    *HUGE,
)


def mutated(content, header, rng):
    """One to three changes; two thirds of them in the header, where most of the decisions are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        end = min(header, len(data)) if rng.random() < 0.67 else len(data)
        at, kind = rng.randrange(max(1, end)), rng.choice(KINDS)
        if not data:
            break
        if kind == "flip":
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == "change":
            data[at : at + 4] = rng.randbytes(rng.randint(1, 4))
        elif kind == "delete":
            del data[at : at + rng.randint(1, 64)]
        elif kind == "insert":
            data[at:at] = rng.randbytes(rng.randint(1, 64))
        elif kind == "cut":
            del data[rng.randrange(len(data)) :]
        elif kind == "word":  # a count or size in binary headers
            data[at // 4 * 4 : at // 4 * 4 + 4] = struct.pack("<I", rng.choice(HUGE) & 0xFFFFFFFF)
        elif kind == "float":
            at = min(header + at // 4 * 4, max(0, len(data) - 4))
            data[at : at + 4] = struct.pack("<f", rng.choice(ODD))
        else:  # a number in textual ones
            numbers = list(re.finditer(rb"\d+", bytes(data[:header])))
            if numbers:
                found = rng.choice(numbers)
                data[found.start() : found.end()] = (
                    rng.choice((b"", b"-")) + str(rng.choice(HUGE)).encode()
                )
    return bytes(data)


def places_in(tree):
    """Every holder and key of a JSON tree."""
    found, waiting = [], [tree]
    while waiting:
        holder = waiting.pop()
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
    return found


def mutated_glb(content, rng):
    """A .glb whose JSON is sound but says something else, or whose chunks are."""
    length = int.from_bytes(content[12:16], "little")
    tree, binary = mutated_tree(json.loads(content[20 : 20 + length]), rng), content[28 + length :]
    text = json.dumps(tree).encode()
    chunks = [(0x4E4F534A, text + b" " * (-len(text) % 4)), (0x004E4942, binary)]
    kind = rng.random()
    if kind < 0.05:
        chunks.reverse()
    elif kind < 0.1:
        chunks.insert(rng.randrange(3), rng.choice(chunks))
    elif kind < 0.15:
        chunks.insert(rng.randrange(3), (rng.randrange(1 << 32), rng.randbytes(rng.randrange(64))))
    elif kind < 0.2:
        chunks.pop()
    body = b"".join(struct.pack("<II", len(data), code) + data for code, data in chunks)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def mutated_sog(content, rng):
    """With another byte in its JSON, or in a picture: in the archive most would fail a checksum."""
    archive, out = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    victim = rng.choice(archive.namelist()) if rng.random() < 0.4 else "meta.json"
    with zipfile.ZipFile(out, "w") as changed:
        for name in archive.namelist():
            data = archive.read(name)
            changed.writestr(name, mutated(data, len(data), rng) if name == victim else data)
    return out.getvalue()


def mutated_tree(tree, rng):
    """A JSON object with one to three changes, in place."""
    for _ in range(rng.randint(1, 3)):
        places = places_in(tree)
        holder, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.2:
            del holder[key]
        elif kind < 0.4:
            other, name = rng.choice(places)
            holder[key] = json.loads(
                json.dumps(other[name] if name in other or isinstance(other, list) else None)
            )
        elif kind < 0.5 and isinstance(holder, list):
            holder[key:key] = holder[key : key + 1] * rng.randint(1, 3)
        elif isinstance(holder[key], (int, float)) and kind < 0.8:
            holder[key] += rng.choice((-1, 1, 4, -4, 256))
        else:
            holder[key] = rng.choice(ANYTHING)
        if not tree:
            break
    return tree


def mutated_safetensors(content, rng, told=()):
    """A safetensors file whose header says something else, whose numbers are odd, or with any byte
    changed. told: keys of its metadata that hold JSON themselves."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    kind = rng.random()
    if kind < 0.25:
        return mutated(content, 8 + length, rng)
    if kind < 0.6 and data:  # odd numbers in one tensor
        name = rng.choice([name for name in header if name != "__metadata__"])
        begin, end = header[name]["data_offsets"]
        for _ in range(rng.randint(1, 4)):
            if end - begin >= 4:
                at = begin + rng.randrange((end - begin) // 4) * 4
                data[at : at + 4] = struct.pack("<f", rng.choice(ODD))
    elif kind < 0.8 and told and header.get("__metadata__", {}).get(told[0]):
        key = rng.choice([key for key in told if key in header["__metadata__"]])
        text = header["__metadata__"][key]
        if rng.random() < 0.6:
            text = json.dumps(mutated_tree(json.loads(text), rng))
        elif rng.random() < 0.1:
            text = "[" * 100_000
        else:
            text = mutated(text.encode(), len(text), rng).decode("utf-8", "replace")
        header["__metadata__"][key] = text
    elif kind < 0.9:  # a tensor less, or under another name
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header.pop(name)
        if rng.random() < 0.7:
            header[name + rng.choice(("x", "/", "/x", ".alpha"))] = entry
        else:
            begin, end = entry["data_offsets"]
            del data[begin:end]
            for other in header.values():
                if "data_offsets" in other and other["data_offsets"][0] >= end:
                    other["data_offsets"] = [at - end + begin for at in other["data_offsets"]]
    else:
        header = mutated_tree(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)
