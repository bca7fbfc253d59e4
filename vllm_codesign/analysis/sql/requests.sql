-- One row a request: its root, the scenario that a client's results give it, what it says of itself.
requests AS (
    SELECT
        r.TraceId AS TraceId,
        r.SpanId AS SpanId,
        r.Instance AS Instance,
        r.Begun AS Begun,
        r.Length AS Length,
        r.Clock AS Clock,
        r.Outlived AS Outlived,
        coalesce(nullif(r.Outcome, ''), 'unknown') AS Outcome,
        coalesce(r.Level, '') AS Level,
        coalesce(nullif(r.Session, ''), '(no session)') AS Session,
        coalesce(r.Bottleneck, '') AS Bottleneck,
        CASE WHEN r.Lossy = 'true' THEN 1 ELSE 0 END AS Lossy,
        r.Exposed AS Exposed,
        coalesce(nullif(c.Scenario, ''), '(no client)') AS Scenario,
        CASE WHEN c.Scenario <> '' THEN 1 ELSE 0 END AS Known,
        CASE WHEN c.Scenario <> '' AND c.HeadersNs >= 0 THEN 1 ELSE 0 END AS Headers,
        CASE WHEN c.Scenario <> '' AND c.HeadersNs >= 0 THEN c.HeadersNs ELSE 0 END AS HeadersNs
    FROM (
        SELECT
            TraceId,
            SpanId,
            max(coalesce(ResourceAttributes['service.instance.id'], '')) AS Instance,
            max(toUnixTimestamp64Nano(Timestamp)) AS Begun,
            max(toInt64(Duration)) AS Length,
            coalesce(max(toInt64OrNull(SpanAttributes['codesign.monotonic_ns'])), 0) AS Clock,
            max(CASE
                WHEN SpanName = 'engine.request' AND length("Links.SpanId") > 0 THEN 1 ELSE 0
            END) AS Outlived,
            max(SpanAttributes['codesign.outcome']) AS Outcome,
            max(SpanAttributes['codesign.level']) AS Level,
            max(SpanAttributes['session.id']) AS Session,
            max(SpanAttributes['codesign.bottleneck']) AS Bottleneck,
            max(SpanAttributes['codesign.lossy']) AS Lossy,
            max(toInt64OrNull(SpanAttributes['codesign.host.exposed_ns'])) AS Exposed
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({until:Int64})
            AND (SpanKind = 'Server' OR (SpanName = 'engine.request' AND ParentSpanId = ''))
            AND ({service:String} = ''
                OR ServiceName = {service:String}
                OR ServiceName = concat({service:String}, '-engine'))
        GROUP BY TraceId, SpanId
    ) AS r
    LEFT JOIN clients AS c ON c.TraceId = r.TraceId
)
