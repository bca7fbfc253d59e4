-- Whose allocations took whose cached blocks, by session: the ten largest, and the sum of all.
WITH
-- include requests
, taken AS (
    SELECT
        TraceId,
        SpanId,
        Parent,
        Number,
        max(coalesce(Of['codesign.kv.evicted.session.id'], '')) AS Owner,
        coalesce(max(toInt64OrNull(Of['codesign.kv.evicted.blocks'])), 0) AS Blocks,
        max(toInt64OrNull(Of['codesign.kv.evicted.idle_ns'])) AS Idle
    FROM (
        SELECT
            TraceId, SpanId, Parent, Number, Names[Number] AS Name, Attributes[Number] AS Of
        FROM (
            SELECT
                TraceId,
                SpanId,
                ParentSpanId AS Parent,
                "Events.Name" AS Names,
                "Events.Attributes" AS Attributes,
                arrayJoin(arrayEnumerate("Events.Name")) AS Number
            FROM {table:Identifier}
            WHERE ScopeName = 'vllm_codesign'
                AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
                AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
                AND SpanName IN ('prefill', 'decode')
        ) AS numbered
    ) AS events
    WHERE Name = 'codesign.kv.evicted'
    GROUP BY TraceId, SpanId, Parent, Number
),
pairs AS (
    SELECT
        r.Session AS Taker,
        coalesce(nullif(t.Owner, ''), '(no session)') AS Owner,
        toInt64(sum(t.Blocks)) AS Blocks,
        toInt64(count(*)) AS Times,
        toInt64(sum(CASE WHEN t.Idle IS NULL THEN 0 ELSE t.Blocks END)) AS IdleBlocks,
        -- Blocks times nanoseconds: beyond 64 bits.
        toFloat64(sum(toInt128(t.Blocks) * toInt128(coalesce(t.Idle, 0)))) AS IdleBlockNs
    FROM taken AS t
    INNER JOIN requests AS r ON r.TraceId = t.TraceId AND r.SpanId = t.Parent
    GROUP BY r.Session, coalesce(nullif(t.Owner, ''), '(no session)')
)
SELECT
    Taker AS taker,
    Owner AS owner,
    Blocks AS blocks,
    Times AS times,
    IdleBlocks AS idle_blocks,
    CASE WHEN IdleBlocks > 0 THEN IdleBlockNs / IdleBlocks / 1e9 ELSE 0 END AS idle_s,
    toInt64(sum(Blocks) OVER ()) AS all_blocks
FROM pairs
ORDER BY blocks DESC, taker, owner
LIMIT 10
