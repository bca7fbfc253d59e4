-- What each worker did for each step, one row a worker and span; times as in `steps`.
workers AS (
    SELECT
        w.TraceId AS TraceId,
        s.Instance AS Instance,
        s.Engine AS Engine,
        w.Rank AS Rank,
        w.Name AS Name,
        w.Begun + s.Shift AS Begun,
        w.Ended + s.Shift AS Ended,
        w.Source AS Source,
        w.Begun + w.DeviceStart + s.Shift AS DeviceStart,
        w.Begun + w.DeviceEnd + s.Shift AS DeviceEnd,
        w.Begun + w.DraftStart + s.Shift AS DraftStart,
        w.Begun + w.DraftEnd + s.Shift AS DraftEnd
    FROM (
        SELECT
            TraceId,
            SpanId,
            max(SpanName) AS Name,
            max(toInt64OrNull(SpanAttributes['codesign.worker.rank'])) AS Rank,
            max(toUnixTimestamp64Nano(Timestamp)) AS Begun,
            max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) AS Ended,
            max(coalesce(nullif(SpanAttributes['codesign.device.source'], ''), 'wall')) AS Source,
            max(toInt64OrNull(SpanAttributes['codesign.device.start_ns'])) AS DeviceStart,
            max(toInt64OrNull(SpanAttributes['codesign.device.end_ns'])) AS DeviceEnd,
            max(toInt64OrNull(SpanAttributes['codesign.device.draft.start_ns'])) AS DraftStart,
            max(toInt64OrNull(SpanAttributes['codesign.device.draft.end_ns'])) AS DraftEnd
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({first:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
            AND SpanName IN ('worker.prepare', 'worker.forward', 'worker.sample',
                'worker.kv_load', 'worker.kv_save')
        GROUP BY TraceId, SpanId
    ) AS w
    INNER JOIN steps AS s ON s.TraceId = w.TraceId
    WHERE w.Rank IS NOT NULL
)
