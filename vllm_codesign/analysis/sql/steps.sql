-- One row a step; times on the host's monotonic clock, `Shift` from Unix time to it.
steps AS (
    SELECT
        TraceId, Instance, Engine, Number, Shift, Before, Blocked,
        Planned + Shift AS Planned,
        PlannedEnd + Shift AS PlannedEnd,
        Updated + Shift AS Updated,
        UpdatedEnd + Shift AS UpdatedEnd,
        Waited
    FROM (
        SELECT
            TraceId,
            max(coalesce(ResourceAttributes['service.instance.id'], '')) AS Instance,
            max(CASE WHEN SpanName = 'engine.step'
                THEN toInt64OrNull(SpanAttributes['codesign.engine.pid']) END) AS Engine,
            max(CASE WHEN SpanName = 'engine.step'
                THEN toInt64OrNull(SpanAttributes['codesign.step.number']) END) AS Number,
            max(CASE WHEN SpanName = 'engine.step'
                THEN toInt64OrNull(SpanAttributes['codesign.monotonic_ns'])
                    - toUnixTimestamp64Nano(Timestamp) END) AS Shift,
            coalesce(max(CASE WHEN SpanName = 'engine.step'
                THEN toInt64OrNull(SpanAttributes['codesign.step.before_ns']) END), 0) AS Before,
            max(CASE WHEN SpanName = 'engine.step'
                THEN coalesce(SpanAttributes['codesign.step.blocked_by'], '') ELSE '' END)
                AS Blocked,
            max(CASE WHEN SpanName = 'schedule' THEN toUnixTimestamp64Nano(Timestamp) END)
                AS Planned,
            max(CASE WHEN SpanName = 'schedule'
                THEN toUnixTimestamp64Nano(Timestamp) + toInt64(Duration) END) AS PlannedEnd,
            max(CASE WHEN SpanName = 'update' THEN toUnixTimestamp64Nano(Timestamp) END)
                AS Updated,
            max(CASE WHEN SpanName = 'update'
                THEN toUnixTimestamp64Nano(Timestamp) + toInt64(Duration) END) AS UpdatedEnd,
            coalesce(max(CASE WHEN SpanName = 'execute'
                THEN toInt64OrNull(SpanAttributes['codesign.step.waited_ns']) END), 0) AS Waited
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({first:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
            AND SpanName IN ('engine.step', 'schedule', 'execute', 'update')
        GROUP BY TraceId
    ) AS per_step
    WHERE Shift IS NOT NULL AND Planned IS NOT NULL
)
