-- How long completed requests were in each phase: the union of its spans within the request, so
-- that several engine requests under one root count as time that passed. `detokenize` and
-- `stream.send` are time inside their calls; `other` is what no span covers.
WITH
-- include requests
, done AS (
    SELECT Scenario, TraceId, SpanId, Begun, Length, Headers FROM requests
    WHERE Outlived = 0 AND Outcome = 'completed'
),
-- include parents
,
-- include children
, cut AS (
    SELECT
        Scenario, TraceId, Root, Name, Headers,
        CASE
            WHEN Name IN ('detokenize', 'stream.send') THEN Busy
            ELSE greatest(High - greatest(Low, coalesce(max(High) OVER (
                PARTITION BY TraceId, Root, Name ORDER BY Low, High
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0)), 0)
        END AS Own,
        greatest(High - greatest(Low, coalesce(max(High) OVER (
            PARTITION BY TraceId, Root ORDER BY Low, High
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0)), 0) AS Fresh
    FROM (
        SELECT
            d.Scenario AS Scenario,
            d.TraceId AS TraceId,
            d.SpanId AS Root,
            d.Headers AS Headers,
            c.Name AS Name,
            c.Busy AS Busy,
            -- Aggregates cover nothing.
            CASE WHEN c.Name IN ('detokenize', 'stream.send') THEN toInt64(0)
                ELSE greatest(c.Begun, d.Begun) END AS Low,
            CASE WHEN c.Name IN ('detokenize', 'stream.send') THEN toInt64(0)
                ELSE least(c.Ended, d.Begun + d.Length) END AS High
        FROM children AS c
        INNER JOIN done AS d ON d.TraceId = c.TraceId AND d.SpanId = c.Root
    ) AS clipped
),
named AS (
    SELECT Scenario, TraceId, Root, Phase, max(Headers) AS Headers, sum(Ns) AS Ns
    FROM (
        SELECT
            Scenario, TraceId, Root, Headers,
            CASE WHEN Which = 'own' THEN Name ELSE 'other' END AS Phase,
            CASE WHEN Which = 'own' THEN Own ELSE -Fresh END AS Ns
        FROM (SELECT *, arrayJoin(['own', 'other']) AS Which FROM cut) AS both_ways
        UNION ALL
        SELECT
            Scenario, TraceId, SpanId AS Root, Headers,
            arrayJoin(['total', 'other']) AS Phase, Length AS Ns
        FROM done
    ) AS each
    GROUP BY Scenario, TraceId, Root, Phase
),
grouped AS (
    SELECT
        Scenario,
        Phase,
        toInt64(count(*)) AS Having_it,
        toInt64(sum(Ns)) AS Total,
        toInt64(sum(CASE WHEN Headers = 1 THEN Ns ELSE 0 END)) AS Joined,
        arraySort(groupArray(toInt64(Ns))) AS Ordered
    FROM named
    GROUP BY Scenario, Phase
),
padded AS (
    SELECT *, max(Having_it) OVER (PARTITION BY Scenario) AS N FROM grouped
)
SELECT
    Scenario AS scenario,
    Phase AS phase,
    N AS n,
    Total AS total_ns,
    Joined AS joined_ns,
-- include ranks
FROM padded
ORDER BY scenario, phase
