-- What vLLM's own connectors moved, by span and connector; of it in the waiting queue.
WITH
-- include requests
,
-- include parents
, spans AS (
    SELECT s.*, coalesce(nullif(p.ParentSpanId, ''), s.Parent) AS Root
    FROM (
        SELECT
            TraceId,
            SpanId,
            max(ParentSpanId) AS Parent,
            max(SpanName) AS Name,
            max(toUnixTimestamp64Nano(Timestamp)) AS Begun,
            max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) AS Ended,
            max(coalesce(SpanAttributes['codesign.request.id'], '')) AS Request,
            max(coalesce(SpanAttributes['codesign.kv.connector'], '')) AS Connector,
            max(coalesce(SpanAttributes['codesign.kv.tier'], '')) AS Tier,
            max(toInt64OrNull(SpanAttributes['codesign.kv.tokens'])) AS Tokens,
            max(toInt64OrNull(SpanAttributes['codesign.kv.transfer.duration_ns'])) AS Took,
            coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.bytes'])), 0) AS Bytes,
            coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.tokens.recomputed'])), 0) AS Again
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
            AND SpanName IN ('kv.load', 'kv.store', 'engine.queue')
        GROUP BY TraceId, SpanId
    ) AS s
    LEFT JOIN parents AS p ON p.TraceId = s.TraceId AND p.SpanId = s.Parent
),
moved AS (
    SELECT s.*
    FROM spans AS s
    INNER JOIN requests AS r ON r.TraceId = s.TraceId AND r.SpanId = s.Root
    -- What outlived its response has the end of a transfer whose tokens were told before.
    WHERE s.Name <> 'engine.queue' AND (s.Tokens IS NOT NULL OR r.Outlived = 1)
        AND s.Connector NOT LIKE '%/%'
),
queued AS (
    SELECT TraceId, SpanId, sum(greatest(High - greatest(Low, Reached), 0)) AS Ns
    FROM (
        SELECT
            TraceId, SpanId, Low, High,
            coalesce(max(High) OVER (
                PARTITION BY TraceId, SpanId ORDER BY Low, High
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS Reached
        FROM (
            SELECT
                m.TraceId AS TraceId,
                m.SpanId AS SpanId,
                greatest(q.Begun, m.Begun) AS Low,
                least(q.Ended, m.Ended) AS High
            FROM moved AS m
            INNER JOIN spans AS q
                ON q.TraceId = m.TraceId AND q.Root = m.Root AND q.Request = m.Request
            WHERE q.Name = 'engine.queue' AND m.Took IS NOT NULL
        ) AS clipped
    ) AS ordered
    GROUP BY TraceId, SpanId
)
SELECT
    m.Name AS span,
    m.Connector AS connector,
    max(m.Tier) AS tier,
    toInt64(count(m.Tokens)) AS transfers,
    toInt64(coalesce(sum(m.Tokens), 0)) AS tokens,
    toInt64(sum(m.Bytes)) AS bytes,
    toInt64(count(m.Took)) AS ended,
    toInt64(coalesce(sum(m.Took), 0)) AS total_ns,
    toInt64(sum(coalesce(q.Ns, 0))) AS queued_ns,
    toInt64(sum(m.Again)) AS recomputed
FROM moved AS m
LEFT JOIN queued AS q ON q.TraceId = m.TraceId AND q.SpanId = m.SpanId
GROUP BY m.Name, m.Connector
HAVING count(m.Tokens) > 0
ORDER BY span, connector
