-- How many steps each engine had while a scenario ran, and when that was on its host's clock.
WITH
-- include requests
,
-- include steps
, windows AS (
    SELECT Scenario, Instance, min(Clock) AS WindowStart, max(Clock + Length) AS WindowEnd
    FROM requests
    WHERE Outlived = 0 AND Clock > 0
    GROUP BY Scenario, Instance
),
spread AS (
    SELECT
        Instance, Engine,
        max(Begin) OVER (PARTITION BY Instance, Engine ORDER BY Number
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS Begin,
        max(Reach) OVER (PARTITION BY Instance, Engine ORDER BY Number
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS Reach
    FROM (
        SELECT
            Instance, Engine, Number, Reach,
            -- Since the step before found no blocks for the head of the queue, if it did not.
            CASE WHEN Lacking > 0 THEN least(Begin, Lacking) ELSE Begin END AS Begin
        FROM (
            SELECT Instance, Engine, Number, Planned - Before AS Begin,
                coalesce(UpdatedEnd, PlannedEnd) AS Reach,
                coalesce(max(CASE WHEN Blocked IN ('no_free_blocks', 'preemption')
                    THEN PlannedEnd ELSE 0 END) OVER (
                    PARTITION BY Instance, Engine ORDER BY Number
                    ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING), 0) AS Lacking
            FROM steps
        ) AS alone
    ) AS blocked
)
SELECT
    w.Scenario AS scenario,
    w.Instance AS instance,
    toInt64(s.Engine) AS engine,
    toInt64(w.WindowStart) AS start_ns,
    toInt64(w.WindowEnd) AS end_ns,
    toInt64(sum(CASE WHEN s.Reach > w.WindowStart AND s.Begin < w.WindowEnd THEN 1 ELSE 0 END))
        AS steps
FROM windows AS w
INNER JOIN spread AS s ON s.Instance = w.Instance
GROUP BY w.Scenario, w.Instance, s.Engine, w.WindowStart, w.WindowEnd
ORDER BY scenario, instance, engine
