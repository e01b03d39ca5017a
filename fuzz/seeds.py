#!/usr/bin/env python3
"""Writes the seeds of all fuzz targets: small inputs of the right shape, from which the fuzzer goes on.

    python3 fuzz/seeds.py

The files are committed; run this again after a format has changed.
"""

import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "seeds"


def seed(target, name, content):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def zigzag(number):
    return varint((number << 1 ^ number >> 63) & (1 << 64) - 1)


def prefixed(content):
    content = content.encode() if isinstance(content, str) else content
    return varint(len(content)) + content


# Exposition text.

seed("exposition", "text", """# HELP requests_total Requests, \\\\ and \\n in one line.
# TYPE requests_total counter
requests_total{method="get",code="200"} 1027 1395066363000
requests_total{method="post",path="a\\"b"} +Inf
# TYPE seconds histogram
seconds_bucket{le="0.1"} 3
seconds_bucket{le="+Inf"} 7
seconds_sum 1.5e-3
seconds_count 7
temperature -Inf
nothing NaN
""")
seed("exposition", "openmetrics", """# TYPE requests counter
# UNIT seconds seconds
# HELP requests Requests.
requests_total{code="200"} 17 1395066363.123 # {trace_id="abc"} 0.67 1395066362.5
requests_created{code="200"} 1395066300.0
# TYPE state stateset
state{state="on"} 1
# TYPE build info
build_info{version="1"} 1
# EOF
""")
seed("exposition", "quoted", """{"name with spaces","label.with.dots"="x"} 1
{"a",b="c",} 0x1p-3
""")

# Remote write. Protocol buffers: a number and a kind make the tag of each field.


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if isinstance(content, float):
        return varint(number << 3 | 1) + struct.pack("<d", content)
    return varint(number << 3 | 2) + prefixed(content)


def packed(number, values):
    return field(number, b"".join(varint(value) for value in values))


def snappy(body):
    """A block of literals only."""
    out = bytearray(varint(len(body)))
    for at in range(0, len(body), 60):
        piece = body[at : at + 60]
        out.append(len(piece) - 1 << 2)
        out += piece
    return bytes(out)


def signed(number):
    return int.from_bytes(zigzag_bytes(number), "big")


def zigzag_bytes(number):
    return ((number << 1 ^ number >> 63) & (1 << 64) - 1).to_bytes(8, "big")


NOW = 1_700_000_000_000
HISTOGRAM = (
    field(1, 12) + field(3, 18.4) + field(4, signed(1)) + field(5, 0.001) + field(6, 2)
    + field(11, field(1, signed(0)) + field(2, 2)) + field(11, field(1, signed(1)) + field(2, 1))
    + packed(12, [signed(1), signed(2), signed(-1)]) + field(14, 1) + field(15, NOW)
)
LABELS = [("__name__", "requests_total"), ("instance", "a:9100"), ("job", "node")]
V1 = field(
    1,
    b"".join(field(1, field(1, name) + field(2, value)) for name, value in LABELS)
    + field(2, field(1, 1.5) + field(2, NOW))
    + field(3, field(1, field(1, "trace_id") + field(2, "abc")) + field(2, 0.5) + field(3, NOW))
    + field(4, HISTOGRAM),
) + field(3, field(1, 1) + field(2, "requests_total") + field(4, "Requests.") + field(5, "s"))
SYMBOLS = ["", "__name__", "requests_total", "instance", "a:9100", "Requests."]
V2 = b"".join(field(4, symbol) for symbol in SYMBOLS) + field(
    5,
    packed(1, [1, 2, 3, 4])
    + field(2, field(1, 1.5) + field(2, NOW) + field(3, NOW - 60_000))
    + field(3, HISTOGRAM)
    + field(4, packed(1, [3, 4]) + field(2, 0.5) + field(3, NOW))
    + field(5, field(1, 1) + field(3, 5) + field(4, 0)),
)
for name, body in [("v1", V1), ("v2", V2)]:
    seed("remote_write", name, body)
    seed("remote_write", f"{name}_snappy", snappy(body))

# PromQL.

for name, text in {
    "sum_by_rate": 'sum by (job) (rate(requests_total{code=~"5.."}[5m] offset 1m)) > 0',
    "join": "a * on (instance) group_left (version) b{x!=\"y\"} or c unless d",
    "quantile": "histogram_quantile(0.9, sum without (instance) (rate(seconds_bucket[1m:10s])))",
    "at": "-foo @ end()^2 + bar @ 1.5e3 - topk(3, baz)",
    "series": '{__name__="a", b="c"} 1 2x3 _ {{schema:1 count:3 sum:2 buckets:[1 2]}}',
}.items():
    seed("promql", name, text)

# Chunks: a selector, a count of two bytes, and what fuzz_targets/chunk.rs reads for that selector.

floats = struct.pack("<6d", 1.0, 2.0, 2.0, 0.5, float("nan"), 1e300)
for selector, name, body in [
    (0, "column", bytes([0]) + zigzag(5)),
    (1, "timestamps", zigzag(NOW) + zigzag(15_000)),
    (2, "values", floats),
    (3, "times", struct.pack("<4q", *((NOW + at * 15_000) << 10 for at in range(4)))),
    (4, "histograms_damaged", bytes([1]) + zigzag(2) + bytes([1, 0, 2, 2, 0, 0, 0, 12]) + bytes(16)),
    (5, "histograms", bytes(range(64))),
    (6, "tile_damaged", bytes([1]) + zigzag(NOW) + bytes([4]) + zigzag(4) + bytes([0, 0, 0, 2, 0, 2])),
    (7, "tile", bytes(range(0, 250, 5))),
]:
    seed("chunk", name, bytes([selector]) + struct.pack("<H", 4) + body)

# Keys and index records: a key, and for each kind of record a selector and the record.

seed("keys", "key_of_a_tile", bytes([0]) + struct.pack(">QBII", 7, 6, 0, 128))
for selector, name, body in [
    (1, "postings_list", bytes([1, 3, 1, 1, 1])),
    (2, "header", struct.pack(">HQqqqqBQQ", 1, 7, 0, 10, 0, 20, 0, 1, 1)),
    (3, "series", bytes([0, 2]) + zigzag(1) + zigzag(2) + zigzag(3) + zigzag(4) + zigzag(5) + zigzag(9)),
    (4, "tombstone", bytes([1]) + struct.pack(">qq", 1, 2) + bytes([1, 1, 2]) + prefixed("a") + prefixed("b.*")
        + prefixed(struct.pack("<II", 12346, 0)) * 2),
    (5, "exemplars", bytes([1]) + zigzag(NOW) + struct.pack(">d", 0.5) + bytes([1]) + prefixed("a") + prefixed("b")),
    (6, "metadata", bytes([1, 1]) + prefixed("s") + prefixed("Help.")),
    (7, "series_written", bytes(range(40))),
]:
    seed("keys", name, bytes([selector]) + body)

# The log: a selector and bytes.


def section(shard, counts, streams, classes):
    head = struct.pack("<HH3I", shard, 0, *counts) + struct.pack("<6I", *map(len, streams))
    return head + b"".join(streams) + classes


EXEMPLAR = varint(1) + zigzag(5) + struct.pack("<d", 0.5) + varint(1) + prefixed("a") + prefixed("b")
LOG_HISTOGRAM = (
    varint(2) + zigzag(7) + zigzag(0) + bytes([0, 0]) + zigzag(1) + struct.pack("<d", 0.001) + varint(1)
    + varint(3) + struct.pack("<d", 4.5) + varint(1) + zigzag(0) + varint(1) + varint(0) + varint(1)
    + zigzag(2) + varint(0) + bytes([0])
)
SECTION = section(
    3,
    (3, 1, 1),
    [zigzag(0) + varint(2), zigzag(NOW) + varint(2), bytes([6]), b"", LOG_HISTOGRAM, EXEMPLAR],
    bytes([0x01, 0x00]),
)
DEFINITIONS = struct.pack("<HHII", 1, 0, 0, 2) + b"".join(
    varint(2) + prefixed("__name__") + prefixed("up") + prefixed("job") + prefixed(job) for job in ("a", "b")
)
METADATA = struct.pack("<HHI", 0xFFFF, 0, 12) + varint(1) + prefixed("up") + bytes([2]) + prefixed("s") + prefixed("Help.")
for selector, name, body in [
    (0, "frame", b"CLg1" + bytes(36)),
    (1, "body", snappy(SECTION)),
    (2, "section", SECTION),
    (2, "metadata", METADATA),
    (3, "definitions", DEFINITIONS),
    (4, "floats", bytes(range(60))),
    (5, "labels", bytes(range(60))),
    (6, "file", bytes([3, 5, 40, 9]) + bytes(range(60))),
    (7, "histogram", bytes(range(120))),
]:
    seed("log", name, bytes([selector]) + body)

# Queries to evaluate: world, start, interval, steps (highest bit: a range), engine, text.

QUERIES = [
    "sum by (job) (rate(jobs_total[5m]))",
    "histogram_quantile(0.9, sum by (le) (rate(lat_bucket[10m])))",
    "temp / on (job, instance) group_left () load fill (0)",
    "max_over_time(rate(http_total[2m])[30m:1m] offset 1m)",
    "topk(2, nh) or bottomk by (job) (1, mixed)",
    "label_replace(temp @ start(), \"x\", \"$1-y\", \"instance\", \"(.*)\") unless load",
    "count_values(\"v\", odd) + scalar(fixed) ^ -2",
    "info(build_info, {version=~\".+\"})",
    "quantile_over_time(0.3, {__name__=~\".+\"}[1h])",
    "increase(jobs_total[5m] smoothed) >= bool ignoring (instance) absent(nhcb)",
    "histogram_fraction(0, 1, rate(nh[5m])) and sort(limitk(3, wild))",
    "avg_over_time(nhcb[1d]) </ 2",
]
for number, query in enumerate(QUERIES):
    seed("evaluate", f"query{number}", bytes([number, 40 + 10 * number, 16, 0x80 * (number % 2) + 9, number % 4]) + query.encode())
for number in range(8):
    seed("evaluate", f"random{number}", bytes([0x80 + 3 * number, 0, 0, 0, number % 4]) + bytes([number, 77]))
