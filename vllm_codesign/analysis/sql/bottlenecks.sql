-- Completed requests by their largest avoidable part.
WITH
-- include requests
SELECT
    Scenario AS scenario,
    Bottleneck AS part,
    toInt64(count(*)) AS requests
FROM requests
WHERE Outlived = 0 AND Outcome = 'completed' AND Bottleneck <> ''
GROUP BY Scenario, Bottleneck
ORDER BY scenario, requests DESC, part
