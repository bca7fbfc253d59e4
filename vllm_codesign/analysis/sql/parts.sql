-- The accounting as the exporter wrote it on the SERVER spans, over completed requests: each
-- part, `device` (prefill and decode), `host.exposed`, `host.hidden`, `total`, and `ttft`, the
-- time to the first chunk. A request without a part counts as 0 in it; one without a first chunk
-- is not in `ttft`. Percentiles by nearest rank.
WITH
-- include requests
, done AS (
    SELECT Scenario, TraceId, SpanId, Length FROM requests
    WHERE Outlived = 0 AND Outcome = 'completed' AND Clock > 0 AND Exposed IS NOT NULL
),
written AS (
    SELECT TraceId, SpanId, Key, max(SpanAttributes[Key]) AS Value
    FROM (
        SELECT TraceId, SpanId, SpanAttributes, arrayJoin(mapKeys(SpanAttributes)) AS Key
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({until:Int64})
            AND SpanKind = 'Server'
    ) AS keys
    WHERE Key LIKE 'codesign.part.%' OR Key LIKE 'codesign.host.%'
        OR Key = 'gen_ai.response.time_to_first_chunk'
    GROUP BY TraceId, SpanId, Key
),
figures AS (
    SELECT
        d.Scenario AS Scenario,
        d.TraceId AS TraceId,
        d.SpanId AS SpanId,
        CASE
            WHEN w.Key LIKE 'codesign.part.%' THEN substring(w.Key, 15, length(w.Key) - 17)
            WHEN w.Key LIKE 'codesign.host.%' THEN substring(w.Key, 10, length(w.Key) - 12)
            ELSE 'ttft'
        END AS Part,
        CASE
            WHEN w.Key LIKE 'gen_ai.%'
            THEN least(d.Length, toInt64(round(coalesce(toFloat64OrNull(w.Value), 0) * 1e9)))
            ELSE coalesce(toInt64OrNull(w.Value), 0)
        END AS Ns
    FROM written AS w
    INNER JOIN done AS d ON d.TraceId = w.TraceId AND d.SpanId = w.SpanId
),
named AS (
    SELECT Scenario, TraceId, SpanId, Name, sum(Ns) AS Ns
    FROM (
        SELECT Scenario, TraceId, SpanId, Ns, arrayJoin(
            CASE
                WHEN Part = 'device.prefill' OR Part = 'device.decode' THEN [Part, 'device']
                ELSE [Part]
            END
        ) AS Name
        FROM figures
        UNION ALL
        SELECT Scenario, TraceId, SpanId, Length AS Ns, 'total' AS Name FROM done
    ) AS each
    GROUP BY Scenario, TraceId, SpanId, Name
),
grouped AS (
    SELECT
        Scenario,
        Name,
        toInt64(count(*)) AS Having_it,
        toInt64(sum(Ns)) AS Total,
        arraySort(groupArray(toInt64(Ns))) AS Ordered
    FROM named
    GROUP BY Scenario, Name
),
padded AS (
    SELECT
        *,
        CASE
            WHEN Name = 'ttft' THEN Having_it
            ELSE max(Having_it) OVER (PARTITION BY Scenario)
        END AS N
    FROM grouped
)
SELECT
    Scenario AS scenario,
    Name AS part,
    N AS n,
    Total AS total_ns,
-- include ranks
FROM padded
ORDER BY scenario, part
