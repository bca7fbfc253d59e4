-- Time in the scheduler's waiting queue by reason, over all engine requests of completed requests.
WITH
-- include requests
, done AS (
    SELECT Scenario, TraceId, SpanId FROM requests
    WHERE Outlived = 0 AND Outcome = 'completed' AND Clock > 0
),
written AS (
    SELECT TraceId, SpanId, max(ParentSpanId) AS Root, Key, max(SpanAttributes[Key]) AS Value
    FROM (
        SELECT TraceId, SpanId, ParentSpanId, SpanAttributes,
            arrayJoin(mapKeys(SpanAttributes)) AS Key
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
            AND SpanName = 'engine.queue'
    ) AS keys
    WHERE Key LIKE 'codesign.queue.%_ns'
    GROUP BY TraceId, SpanId, Key
)
SELECT
    d.Scenario AS scenario,
    substring(w.Key, 16, length(w.Key) - 18) AS reason,
    toInt64(count(*)) AS times,
    toInt64(sum(coalesce(toInt64OrNull(w.Value), 0))) AS total_ns
FROM written AS w
INNER JOIN done AS d ON d.TraceId = w.TraceId AND d.SpanId = w.Root
GROUP BY scenario, reason
ORDER BY scenario, total_ns DESC, reason
