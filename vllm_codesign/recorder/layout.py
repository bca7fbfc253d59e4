"""The record format: what every byte of a ring means.

A ring is one file: a header page, then `capacity` slots of 64 bytes. Slot `n % capacity`
holds record number `n`; a record carries its own number plus one at both ends, head first
and tail last in the order of writing, so that a reader in another process can tell a whole
record from one that is being written or overwritten. Zero means never written.

Two shapes share those 64 bytes:

    number  head  kind  s    c    key  t0  t1  a  b        tail
    text    head  kind  s    c    key  32 bytes of payload  tail

`s` (16 bits) and `c` (32 bits) are small numbers, `key` is a 64-bit id, the rest are signed
64-bit integers. What they mean for each kind is said beside the kind, and `codesign dump`
prints records by these names.
"""

from __future__ import annotations

import struct
from enum import IntEnum

MAGIC = b"CDSNRING"
VERSION = 1
HEADER_BYTES = 4096
RECORD_BYTES = 64
TEXT_BYTES = 32

RECORD = struct.Struct("<QHHIQqqqqQ")
TEXT = struct.Struct("<QHHIQ32sQ")
assert RECORD.size == TEXT.size == RECORD_BYTES

# Header fields: offset, all unsigned 64-bit unless said otherwise.
H_MAGIC = 0  # 8 bytes
H_VERSION = 8
H_CAPACITY = 16
H_PID = 24
H_START_TICKS = 32  # field 22 of /proc/PID/stat: tells a reused pid from ours
H_CREATED_NS = 40  # monotonic
H_READ = 128  # written by the reader: records consumed; a cache line of its own
H_COPIED = 144  # written by the reader: records copied out, though perhaps not yet dealt with
H_LOST = 136  # written by the reader: records that it never got
H_ERRORS = 192  # written by the producer: exceptions swallowed in hooks
H_DROPS = 1024  # written by the producer: one count per kind
H_PASSED = 3072  # written by the reader: one 32-bit count per kind, beside those of H_DROPS

MAX_KINDS = 256


class Kind(IntEnum):
    """What a record says. Numbers are part of the format: never reused."""

    VOID = 0
    """Its numbers did not fit: the slot is filled all the same, and says nothing"""

    # API server; key = root key unless said otherwise
    ROOT_BEGIN = 1
    """t0 first byte in; t1 application entered; s route number; c level; a body bytes announced"""
    ROOT_PARENT = 2
    """t0, t1 trace id (high, low half); a our root span id; b caller's span id; c trace flags;
    s 1 if the caller sent a traceparent"""
    ROOT_RECEIVED = 3
    """t0 last byte of the body in; t1 route's function entered (0: never); a body bytes"""
    ROOT_PARAMS = 4
    """t0 max tokens (-1 none); t1 n; a temperature, b top_p (bits of a double; -1 none);
    s bit 0: stream"""
    ROOT_STREAM = 5
    """t0 headers handed over; t1 last byte handed over (of a stream that was not completed: its
    last chunk about to be); a time in send, every eighth chunk timed; b bytes; c calls"""
    ROOT_END = 6
    """t0 end; t1 first chunk of the body handed over (0: none); a status (0: none sent);
    b length of the first send; s ending (Ending)"""
    JOB = 7
    """A job of the renderer pool. s Job; t0 queued; t1 begins; a ends; b tokens;
    c pool size << 16 | jobs ahead"""
    JOB_BATCH = 8
    """Follows a JOB whose prompt was encoded with others: t0 begins; t1 ends; a prompts"""

    RESUMED = 9
    """The request's coroutine runs again: t0 after its template was rendered (or at the start of
    tokenization where there is none); t1 after all its prompts were encoded"""
    TAKEN = 10
    """t0 the request's coroutine has taken up its last engine output"""

    LOOP_LAG = 11
    """A tick of the event loop: t0 when it was due; t1 when it ran"""

    # API server; key = engine request key
    REQ = 16
    """t0 handed to the engine client; t1 registered with the output processor; a root key
    (0: none); b time in process_inputs; s index; c prompt tokens"""
    REQ_SEND = 17
    """t0 encoding begins; t1 handed to the socket"""
    REQ_OUT = 18
    """t0 first token's stamp; t1 last token's stamp; a outputs; b tokens;
    s finish reason + 1 (0: none)"""
    REQ_RETURN = 19
    """Last output: t0 decoded; t1 taken up; a processed; b sum over all outputs, stamp to
    processed; c outputs"""
    REQ_DETOKENIZE = 20
    """t0 first call; t1 end of the last; a time inside; b length of the first; c calls"""
    REQ_FAILED = 21
    """t0 when an error was passed to the request"""

    # EngineCore; key = engine request key
    ENG_PREPROCESS = 32
    """t0, t1 the call in the input thread"""
    ENG_QUEUED = 33
    """t0 in the waiting queue; t1 its number in this EngineCore, from 1; a prompt tokens;
    b waiting; c running"""
    ENG_SCHEDULED = 34
    """t0 entry of the schedule() call that admits it; t1 its return; a tokens hit in HBM;
    b tokens hit externally; s 1 when resumed after a preemption"""
    ENG_LOOKUP = 35
    """Lookup of the admitting step: t0, t1; a asked << 32 | hit; b time in all tries; c tries"""
    ENG_ALLOCATE = 36
    """Allocation of the admitting step: t0, t1; a blocks << 32 | evicted; b time in all tries;
    c tries"""
    ENG_PREEMPTED = 37
    """t0 when; a computed tokens thrown away"""
    ENG_FINISHED = 38
    """t0 freed by the scheduler; t1 prefill chunks; a decode steps; b sum of the batch sizes of
    those steps; s finish reason + 1; c preemptions"""
    ENG_DECODE_KV = 39
    """Allocations after admission: t0 time inside; t1 calls; a blocks; b evicted"""
    ENG_HEAD = 40
    """Why the head of the waiting queue waits, from t0 on: s QueueReason number (0: queue empty);
    key = its key"""
    ENG_DEFERRED = 41
    """Why this request is passed over, from t0 on: s QueueReason number (0: no longer)"""

    KV_LOOKUP = 42
    """A connector was asked what it has: t0, t1 the last call; a asked << 32 | hit; b time in all
    calls; c calls; s connector (CONNECTOR_BITS)"""
    KV_LOAD = 43
    """A connector was told to load: t0 when; t1 the schedule() call returns; a tokens << 32 |
    blocks; b step whose workers start it (0: below that level, or none); c bytes of a block;
    s connector"""
    KV_LOADED = 44
    """The engine learns that an asynchronous load is over: t0 when; t1 when it could have learned
    it before"""
    KV_FAILED = 45
    """Loaded tokens are not there after all: t0 when; a tokens to be computed again"""
    KV_STORE = 46
    """What connectors were told to store of it until its end: t0 first; t1 last; a tokens << 32 |
    blocks; b step of the last one (0: unknown); c bytes of a block; s connector"""
    KV_SENT = 47
    """The engine learns that its blocks are no longer needed by a connector: t0 when; t1 when it
    could have learned it before"""

    STEP = 48
    """key step; t0, t1 the schedule() call; a tokens << 32 | requests; b since EngineCore
    last ended a schedule() or an update_from_output(), of its first step since it took in the
    request that found it empty; c block allocations in it;
    s QueueReason number of the head that was left waiting (0: none)"""
    STEP_STATE = 49
    """Follows STEP: key step; t0 first allocation begins; t1 last one ends; a running << 32 |
    time in allocations; b the step whose members are also this one's; c requests preempted << 16
    | pieces that tell the members (0 where b is another step); s requests left waiting"""
    STEP_UPDATE = 50
    """key step; t0, t1 the update_from_output() call; a tokens drafted << 32 | accepted;
    b since EngineCore last ended a schedule() or an update_from_output(), which is how long it
    waited for the result; c requests not finished after it"""

    ENG_BLOCKS = 51
    """key engine request: what the prefix cache did for it. t0 admitted; t1 as long
    before as the blocks it found had been held by nobody, in the mean (0: none had); a tokens
    computed again though they had been cached << 32 | blocks found of others that nobody held;
    b bytes of a block"""
    KV_EVICTED = 52
    """key engine request: an allocation for it took cached blocks. t0 when; t1 when their owner
    was freed (0: it still runs); a key of their owner; b blocks"""
    ENG_TRIED = 53
    """Follows an ENG_LOOKUP of more than one try: a tokens asked, b tokens hit, in all tries"""

    KV_ORDERED = 54
    """A connector was told to store some of it: t0 when; b step whose workers do; s connector"""

    # Worker
    WORKER_EXECUTE = 65
    """key step (0: below that level); t0, t1 execute_model(); a forward begins, b its end
    (0: none); c tokens; s rank, its highest bit set where a device clock tells of this step"""
    WORKER_SAMPLE = 66
    """key step (0: below that level); t0, t1 sample_tokens(); s rank"""
    WORKER_DEVICE = 67
    """key step; t0, t1 when the device worked, by its own clock, mapped to the host's; a, b the
    forward alone (0: not told); c DeviceWork; s rank"""

    WORKER_KV = 68
    """A call of the connector: key step; t0, t1; c KVCall; s rank. With wait_for_save(): a in
    wait_for_layer_load(), b in save_kv_layer() of this step, c calls of both << 8 | KVCall"""
    WORKER_KV_DONE = 69
    """A worker learns that a transfer is over. key engine request; t0 when; t1 when it asked
    before; a KVDone; s rank"""
    WORKER_KV_STORED = 70
    """A worker learns that a store is over, one of a request's. key engine request; t0 when it was
    ordered; t1 when it is known to be over; a tokens << 32 | stores (one, and those whose place
    it took); b when it asked before; s rank"""

    # any process
    GIL = 96
    """t0, t1 the interval; a in how many of b looks somebody waited for the GIL"""

    # text records; s Field, c index << 16 | number of pieces
    TEXT = 128
    """A string in UTF-8, in pieces of 32 bytes padded with zeros"""
    ITL = 129
    """Inter-token times: eight unsigned 32-bit microseconds a piece; c index << 8 | how many"""
    STEP_DECODES = 130
    """key step; numbers of requests that got one token in it, eight unsigned 32-bit a piece;
    s how many in this piece; c index among the pieces of both kinds"""
    STEP_CHUNKS = 131
    """key step; (number, tokens) of its other requests, four pairs of unsigned 32-bit a piece, the
    highest bit of tokens set while decoding; s and c as above"""
    KV_NAME = 132
    """Name of a connector's class, its first 32 bytes; key engine request; s connector"""


class Field(IntEnum):
    """Which string a TEXT record carries."""

    REQUEST_ID = 1
    MODEL = 2
    SESSION_ID = 3
    ERROR_TYPE = 4
    TRACE_STATE = 5
    REMOTE_REQUEST_ID = 6
    REMOTE_ENGINE_ID = 7
    TRANSFER_ID = 8


ENGINE_FIELDS = frozenset(
    (Field.REQUEST_ID, Field.REMOTE_REQUEST_ID, Field.REMOTE_ENGINE_ID, Field.TRANSFER_ID)
)
"""Those whose key is an engine request; that of the others is a root."""


class Job(IntEnum):
    """What a job of the renderer pool does."""

    TEMPLATE = 1
    TOKENIZE = 2


class Ending(IntEnum):
    """How the application's side of an HTTP request ended (bits)."""

    COMPLETE = 1  # the last byte of the response was handed over
    DISCONNECTED = 2  # the client went away before that
    RAISED = 4  # the application raised


class DeviceWork(IntEnum):
    """What a WORKER_DEVICE interval was spent on."""

    MODEL = 1
    SAMPLE = 2
    DRAFT = 3


class KVCall(IntEnum):
    """Which call of a connector a WORKER_KV record is about."""

    START_LOAD = 1
    WAIT_FOR_SAVE = 2


class KVDone(IntEnum):
    """What a WORKER_KV_DONE record says is over."""

    RECEIVED = 1
    SENT = 2
    FAILED = 3


TEXT_KINDS = frozenset((Kind.TEXT, Kind.ITL, Kind.STEP_DECODES, Kind.STEP_CHUNKS, Kind.KV_NAME))

CONNECTOR_BITS = 6
"""`s` of a record about a connector: its number in this process from 1, from this bit on that of
the connector which called it (0: vLLM itself), and above both flags (KVFlag)."""


class KVFlag(IntEnum):
    """Above the two connectors' numbers (bits)."""

    ASYNCHRONOUS = 1 << 12  # over when it is reported, not when the call returns
    PENDING = 1 << 13  # the last answer was "ask again later"


DEVICE_CLOCK = 1 << 15
"""The bit of a rank that says that WORKER_DEVICE records of the step are to come."""

DECODING = 1 << 31
"""The bit that marks a pair of STEP_CHUNKS as decoding."""

# One number per queue reason, in the order of semconv.QueueReason; 0 means none.
REASON_NUMBERS = (
    "no_free_blocks",
    "no_slot",
    "token_budget",
    "behind_head",
    "kv_load",
    "kv_lookup",
    "grammar",
    "lora_limit",
    "encoder_budget",
    "paused",
    "preemption",
    "other",
)

ROUTES: tuple[tuple[str, str], ...] = (
    # (path, gen_ai.operation.name); a record carries the index
    ("/v1/chat/completions", "chat"),
    ("/v1/completions", "text_completion"),
    ("/v1/responses", "chat"),
    ("/v1/messages", "chat"),
    ("/v1/chat/completions/batch", "chat"),
    ("/inference/v1/generate", "generate_content"),
    ("/invocations", "generate_content"),
    ("/cohere/v2/chat", "chat"),
    ("/generate", "generate_content"),
)
