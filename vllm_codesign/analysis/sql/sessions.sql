-- What the KV caches did, by session: tokens by where they were found, what was computed again
-- although it had been cached. The ten largest, and the sum of all.
WITH
-- include requests
, prefills AS (
    SELECT
        TraceId,
        SpanId,
        max(ParentSpanId) AS Root,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.prefill.tokens.computed'])), 0)
            AS Computed,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.tokens.hit.hbm'])), 0) AS Hbm,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.tokens.hit.external'])), 0)
            AS External,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.tokens.computed_again'])), 0)
            AS Again,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.reused.bytes'])), 0) AS Bytes,
        coalesce(max(toInt64OrNull(SpanAttributes['codesign.kv.reused.idle_ns'])), 0) AS Idle
    FROM {table:Identifier}
    WHERE ScopeName = 'vllm_codesign'
        AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
        AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
        AND SpanName = 'prefill'
    GROUP BY TraceId, SpanId
),
per_session AS (
    SELECT
        r.Session AS Session,
        toInt64(count(*)) AS Requests,
        toInt64(sum(p.Computed + p.Hbm + p.External)) AS Prompt,
        toInt64(sum(p.Hbm)) AS Hbm,
        toInt64(sum(p.External)) AS External,
        toInt64(sum(p.Again)) AS Again,
        -- Bytes times nanoseconds: beyond 64 bits.
        toInt64(sum(intDiv(toInt128(p.Bytes) * toInt128(p.Idle), toInt128(1000000000)))) AS Held
    FROM prefills AS p
    INNER JOIN requests AS r ON r.TraceId = p.TraceId AND r.SpanId = p.Root
    GROUP BY r.Session
)
SELECT
    Session AS session,
    Requests AS requests,
    Prompt AS prompt_tokens,
    Hbm AS hit_hbm,
    External AS hit_external,
    Again AS computed_again,
    Held AS held_byte_s,
    toInt64(sum(Again) OVER ()) AS all_again
FROM per_session
ORDER BY computed_again DESC, prompt_tokens DESC, session
LIMIT 10
