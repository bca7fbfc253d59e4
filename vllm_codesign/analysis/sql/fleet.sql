-- The throughput view: what each engine's device did while a scenario ran, and why it stood idle.
-- All intervals that matter are laid over one another: each begins with +1 and ends with -1, and
-- the running sums say which of them hold between one end and the next.
WITH
-- include requests
,
-- include parents
,
-- include steps
,
-- include workers
, house AS (
    SELECT Scenario, Instance, TraceId, SpanId, Begun, Length, Clock FROM requests
    WHERE Outlived = 0 AND Clock > 0
),
windows AS (
    SELECT
        h.Scenario AS Scenario,
        h.Instance AS Instance,
        e.Engine AS Engine,
        h.WindowStart AS WindowStart,
        h.WindowEnd AS WindowEnd
    FROM (
        SELECT Scenario, Instance, min(Clock) AS WindowStart, max(Clock + Length) AS WindowEnd
        FROM house GROUP BY Scenario, Instance
    ) AS h
    INNER JOIN (SELECT DISTINCT Instance, Engine FROM steps) AS e ON e.Instance = h.Instance
),
calls AS (
    SELECT TraceId, Rank, Begun, Ended FROM workers
    WHERE Name IN ('worker.kv_load', 'worker.kv_save')
),
device AS (
    SELECT
        Instance, Engine, TraceId, Rank, Source, Work,
        CASE WHEN Work = 'draft' THEN DraftStart ELSE DeviceStart END AS Low,
        CASE WHEN Work = 'draft' THEN DraftEnd ELSE DeviceEnd END AS High
    FROM (
        SELECT *, arrayJoin(
            CASE WHEN Name = 'worker.sample' THEN ['sample', 'draft'] ELSE ['model'] END
        ) AS Work
        FROM workers
        WHERE Name IN ('worker.forward', 'worker.sample')
    ) AS works
    WHERE (Work = 'draft' AND DraftStart IS NOT NULL AND DraftEnd IS NOT NULL)
        OR (Work <> 'draft' AND DeviceStart IS NOT NULL AND DeviceEnd IS NOT NULL)
),
-- Where the device's time is the host's, a connector that loads or saves has its own.
outside AS (
    SELECT Instance, Engine, Instant, least(Until, High) AS Until
    FROM (
        SELECT
            d.Instance AS Instance,
            d.Engine AS Engine,
            d.High AS High,
            c.Begun AS Instant,
            greatest(c.Ended, c.Begun) AS Until,
            d.Low AS Low,
            coalesce(max(greatest(c.Ended, c.Begun)) OVER (
                PARTITION BY d.TraceId, d.Rank, d.Work, d.Low ORDER BY c.Begun, c.Ended
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS Reached
        FROM device AS d
        INNER JOIN calls AS c ON c.TraceId = d.TraceId AND c.Rank = d.Rank
        WHERE d.Source = 'wall' AND c.Begun > d.Low AND c.Begun < d.High
    ) AS inside
    WHERE Instant > greatest(Low, Reached)
),
-- A worker of which anything is missing leaves the device unseen while its step is in flight.
seen AS (
    SELECT
        TraceId,
        min(Whole) AS Whole
    FROM (
        SELECT
            TraceId,
            Rank,
            CASE WHEN sum(CASE WHEN Name = 'worker.prepare' THEN 1 ELSE 0 END) > 0
                AND sum(CASE WHEN Name = 'worker.forward' AND DeviceStart IS NOT NULL
                    AND DeviceEnd IS NOT NULL THEN 1 ELSE 0 END) > 0
                AND sum(CASE WHEN Name = 'worker.sample' AND DeviceStart IS NOT NULL
                    AND DeviceEnd IS NOT NULL THEN 1 ELSE 0 END) > 0
            THEN 1 ELSE 0 END AS Whole
        FROM workers
        GROUP BY TraceId, Rank
    ) AS ranks
    GROUP BY TraceId
),
worked AS (
    SELECT TraceId, max(High) AS DeviceEnd FROM device GROUP BY TraceId
),
prepared AS (
    SELECT
        TraceId, Rank, max(Instance) AS Instance, max(Engine) AS Engine,
        max(CASE WHEN Name = 'worker.prepare' THEN Begun END) AS Low,
        max(CASE WHEN Name = 'worker.forward' THEN Begun END) AS High
    FROM workers
    WHERE Name IN ('worker.prepare', 'worker.forward')
    GROUP BY TraceId, Rank
),
-- Of the engines: kind, from, to.
engine_rows AS (
    SELECT Instance, Engine, 'device' AS Kind, Low, High, 1 AS Weight FROM device
    UNION ALL
    SELECT Instance, Engine, 'device' AS Kind, Instant AS Low, Until AS High, -1 AS Weight FROM outside
    UNION ALL
    SELECT Instance, Engine, 'prepare' AS Kind, Low, High, 1 AS Weight FROM prepared
    WHERE Low IS NOT NULL AND High IS NOT NULL
    UNION ALL
    SELECT
        s.Instance AS Instance,
        s.Engine AS Engine,
        s.Kind AS Kind,
        CASE s.Kind
            WHEN 'output' THEN s.Planned - s.Before
            WHEN 'schedule' THEN s.Planned
            WHEN 'update' THEN s.Updated
            WHEN 'ipc' THEN s.Updated - s.Waited
            ELSE s.PlannedEnd
        END AS Low,
        CASE s.Kind
            WHEN 'output' THEN s.Planned
            WHEN 'schedule' THEN s.PlannedEnd
            WHEN 'update' THEN s.UpdatedEnd
            WHEN 'ipc' THEN s.Updated
            ELSE coalesce(s.Updated, s.DeviceEnd, s.PlannedEnd)
        END AS High,
        1 AS Weight
    FROM (
        SELECT
            t.Instance AS Instance,
            t.Engine AS Engine,
            t.Before AS Before,
            t.Planned AS Planned,
            t.PlannedEnd AS PlannedEnd,
            t.Updated AS Updated,
            t.UpdatedEnd AS UpdatedEnd,
            t.Waited AS Waited,
            nullif(d.DeviceEnd, 0) AS DeviceEnd,
            coalesce(k.Whole, 0) AS Whole,
            arrayJoin(['output', 'schedule', 'update', 'ipc', 'unseen']) AS Kind
        FROM steps AS t
        LEFT JOIN seen AS k ON k.TraceId = t.TraceId
        LEFT JOIN worked AS d ON d.TraceId = t.TraceId
    ) AS s
    WHERE (s.Kind NOT IN ('update', 'ipc') OR s.Updated IS NOT NULL)
        AND (s.Kind <> 'unseen' OR s.Whole = 0)
),
-- Of the requests: what was in the house, and where.
house_spans AS (
    SELECT
        h.Scenario AS Scenario,
        h.Instance AS Instance,
        h.TraceId AS TraceId,
        h.SpanId AS SpanId,
        c.Name AS Name,
        c.Engine AS Engine,
        c.RequestId AS RequestId,
        c.Waited AS Waited,
        c.Begun + h.Clock - h.Begun AS Low,
        c.Ended + h.Clock - h.Begun AS High
    FROM (
        SELECT
            b.TraceId AS TraceId,
            coalesce(nullif(p.ParentSpanId, ''), b.Parent) AS Root,
            b.Name AS Name, b.Engine AS Engine, b.Begun AS Begun, b.Ended AS Ended,
            b.RequestId AS RequestId, b.Waited AS Waited
        FROM (
            SELECT
                TraceId,
                SpanId,
                max(ParentSpanId) AS Parent,
                max(SpanName) AS Name,
                max(toInt64OrNull(SpanAttributes['codesign.engine.pid'])) AS Engine,
                max(SpanAttributes['codesign.request.id']) AS RequestId,
                -- A load that a worker waits for, before it computes its step.
                max(CASE WHEN SpanAttributes['codesign.kv.asynchronous'] = 'false'
                    THEN 1 ELSE 0 END) AS Waited,
                max(toUnixTimestamp64Nano(Timestamp)) AS Begun,
                max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) AS Ended
            FROM {table:Identifier}
            WHERE ScopeName = 'vllm_codesign'
                AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
                AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
                AND SpanName IN ('engine.dispatch', 'engine.queue', 'prefill', 'decode', 'kv.load')
            GROUP BY TraceId, SpanId
        ) AS b
        LEFT JOIN parents AS p ON p.TraceId = b.TraceId AND p.SpanId = b.Parent
    ) AS c
    INNER JOIN house AS h ON h.TraceId = c.TraceId AND h.SpanId = c.Root
),
-- While a request waits for a load of its own it does not run; loads may overlap.
own_loads AS (
    SELECT Scenario, Instance, Engine, greatest(Low, Reached) AS Low, High
    FROM (
        SELECT
            r.Scenario AS Scenario,
            r.Instance AS Instance,
            r.Engine AS Engine,
            greatest(l.Low, r.Low) AS Low,
            least(l.High, r.High) AS High,
            coalesce(max(least(l.High, r.High)) OVER (
                PARTITION BY r.Scenario, r.TraceId, r.SpanId, r.RequestId, r.Engine, r.Name, r.Low
                ORDER BY l.Low, l.High
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS Reached
        FROM house_spans AS r
        INNER JOIN house_spans AS l
            ON l.Scenario = r.Scenario AND l.TraceId = r.TraceId AND l.SpanId = r.SpanId
            AND l.RequestId = r.RequestId
        WHERE r.Name IN ('prefill', 'decode') AND r.Engine IS NOT NULL
            AND l.Name = 'kv.load' AND l.Waited = 0 AND l.Engine IS NOT NULL
            AND l.Low < r.High AND l.High > r.Low
    ) AS clipped
    WHERE greatest(Low, Reached) < High
),
house_rows AS (
    SELECT
        Scenario, Instance, Engine,
        CASE
            WHEN Name <> 'kv.load' THEN 'here'
            WHEN Waited = 1 THEN 'blocking'
            ELSE 'background'
        END AS Kind, Low, High, 1 AS Weight
    FROM house_spans
    WHERE Name <> 'engine.dispatch' AND Engine IS NOT NULL
    UNION ALL
    SELECT Scenario, Instance, Engine, 'running' AS Kind, Low, High, 1 AS Weight
    FROM house_spans
    WHERE Name IN ('prefill', 'decode') AND Engine IS NOT NULL
    UNION ALL
    SELECT Scenario, Instance, Engine, 'running' AS Kind, Low, High, -1 AS Weight
    FROM own_loads
    UNION ALL
    SELECT w.Scenario AS Scenario, w.Instance AS Instance, w.Engine AS Engine,
        'dispatch' AS Kind, d.Low AS Low, d.High AS High, 1 AS Weight
    FROM house_spans AS d
    INNER JOIN windows AS w ON w.Scenario = d.Scenario AND w.Instance = d.Instance
    WHERE d.Name = 'engine.dispatch'
    UNION ALL
    -- From a request's first byte until it is handed to an engine; to its end, if it never was.
    SELECT w.Scenario AS Scenario, w.Instance AS Instance, w.Engine AS Engine,
        'frontend' AS Kind, f.Low AS Low, f.High AS High, 1 AS Weight
    FROM (
        SELECT Scenario, Instance, max(Clock) AS Low, min(Handed) AS High
        FROM (
            SELECT Scenario, Instance, TraceId, SpanId, Clock, Clock + Length AS Handed FROM house
            UNION ALL
            SELECT Scenario, Instance, TraceId, SpanId, toInt64(0) AS Clock, Low AS Handed
            FROM house_spans WHERE Name IN ('engine.dispatch', 'engine.queue', 'prefill')
        ) AS stamps
        GROUP BY Scenario, Instance, TraceId, SpanId
    ) AS f
    INNER JOIN windows AS w ON w.Scenario = f.Scenario AND w.Instance = f.Instance
),
rows_in_windows AS (
    SELECT
        w.Scenario AS Scenario, w.Instance AS Instance, w.Engine AS Engine, r.Kind AS Kind,
        greatest(r.Low, w.WindowStart) AS Low, least(r.High, w.WindowEnd) AS High,
        r.Weight AS Weight
    FROM engine_rows AS r
    INNER JOIN windows AS w ON w.Instance = r.Instance AND w.Engine = r.Engine
    UNION ALL
    SELECT
        w.Scenario AS Scenario, w.Instance AS Instance, w.Engine AS Engine, r.Kind AS Kind,
        greatest(r.Low, w.WindowStart) AS Low, least(r.High, w.WindowEnd) AS High,
        r.Weight AS Weight
    FROM house_rows AS r
    INNER JOIN windows AS w
        ON w.Scenario = r.Scenario AND w.Instance = r.Instance AND w.Engine = r.Engine
    UNION ALL
    SELECT Scenario, Instance, Engine, 'window' AS Kind, WindowStart AS Low, WindowEnd AS High,
        1 AS Weight
    FROM windows
),
changes AS (
    SELECT
        Scenario, Instance, Engine, Instant,
        sum(CASE WHEN Kind = 'window' THEN Change ELSE 0 END) AS Inside,
        sum(CASE WHEN Kind = 'device' THEN Change ELSE 0 END) AS Device,
        sum(CASE WHEN Kind = 'here' THEN Change ELSE 0 END) AS Here,
        sum(CASE WHEN Kind = 'running' THEN Change ELSE 0 END) AS Running,
        sum(CASE WHEN Kind = 'blocking' THEN Change ELSE 0 END) AS Blocking,
        sum(CASE WHEN Kind = 'background' THEN Change ELSE 0 END) AS Background,
        sum(CASE WHEN Kind = 'unseen' THEN Change ELSE 0 END) AS Unseen,
        sum(CASE WHEN Kind = 'prepare' THEN Change ELSE 0 END) AS Prepare,
        sum(CASE WHEN Kind = 'schedule' THEN Change ELSE 0 END) AS Schedule,
        sum(CASE WHEN Kind = 'update' THEN Change ELSE 0 END) AS Updating,
        sum(CASE WHEN Kind = 'ipc' THEN Change ELSE 0 END) AS Ipc,
        sum(CASE WHEN Kind = 'output' THEN Change ELSE 0 END) AS Output,
        sum(CASE WHEN Kind = 'frontend' THEN Change ELSE 0 END) AS Frontend,
        sum(CASE WHEN Kind = 'dispatch' THEN Change ELSE 0 END) AS Dispatch
    FROM (
        SELECT
            Scenario, Instance, Engine, Kind,
            CASE WHEN Sign = 1 THEN Low ELSE High END AS Instant,
            Weight * Sign AS Change
        FROM (
            SELECT *, arrayJoin([1, -1]) AS Sign FROM rows_in_windows WHERE Low < High
        ) AS ends
    ) AS signed
    GROUP BY Scenario, Instance, Engine, Instant
),
pieces AS (
    SELECT
        Scenario, Instance, Engine,
        coalesce(min(Instant) OVER (
            PARTITION BY Scenario, Instance, Engine ORDER BY Instant
            ROWS BETWEEN 1 FOLLOWING AND 1 FOLLOWING), 0) - Instant AS Ns,
        sum(Inside) OVER so_far AS Inside,
        sum(Device) OVER so_far AS Device,
        sum(Here) OVER so_far AS Here,
        sum(Running) OVER so_far AS Running,
        sum(Blocking) OVER so_far AS Blocking,
        sum(Background) OVER so_far AS Background,
        sum(Unseen) OVER so_far AS Unseen,
        sum(Prepare) OVER so_far AS Prepare,
        sum(Schedule) OVER so_far AS Schedule,
        sum(Updating) OVER so_far AS Updating,
        sum(Ipc) OVER so_far AS Ipc,
        sum(Output) OVER so_far AS Output,
        sum(Frontend) OVER so_far AS Frontend,
        sum(Dispatch) OVER so_far AS Dispatch
    FROM changes
    WINDOW so_far AS (
        PARTITION BY Scenario, Instance, Engine ORDER BY Instant
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
)
SELECT
    Scenario AS scenario,
    Instance AS instance,
    toInt64(Engine) AS engine,
    CASE
        WHEN Device > 0 THEN 'busy'
        WHEN Here > 0 AND Blocking > 0 THEN 'kv_load'
        -- In the background it is the cause only while the engine has nothing else to run.
        WHEN Here > 0 AND Background > 0 AND Running = 0
            AND Unseen + Prepare + Schedule + Updating + Ipc = 0 THEN 'kv_load'
        WHEN Here > 0 AND Unseen > 0 THEN 'other'
        WHEN Here > 0 AND Prepare > 0 THEN 'prepare'
        WHEN Here > 0 AND Schedule > 0 THEN 'schedule'
        WHEN Here > 0 AND Updating > 0 THEN 'update'
        WHEN Here > 0 AND Ipc > 0 THEN 'ipc'
        WHEN Here > 0 AND Output > 0 THEN 'output'
        WHEN Here > 0 THEN 'other'
        WHEN Frontend > 0 THEN 'frontend'
        WHEN Dispatch > 0 THEN 'ipc'
        ELSE 'no_work'
    END AS what,
    toInt64(sum(Ns)) AS total_ns,
    toInt64(sum(CASE
        WHEN Device > 0 AND Prepare + Schedule + Updating + Output > 0 THEN Ns ELSE 0
    END)) AS hidden_ns
FROM pieces
WHERE Inside > 0
GROUP BY scenario, instance, engine, what
ORDER BY scenario, instance, engine, what
