-- How requests ended; how many of them a client knows, with its time to headers, and at which level
-- they were recorded.
WITH
-- include requests
SELECT
    Scenario AS scenario,
    Outcome AS outcome,
    toInt64(count(*)) AS requests,
    toInt64(sum(Known)) AS known,
    toInt64(sum(Headers)) AS headers,
    toInt64(sum(HeadersNs)) AS headers_ns,
    toInt64(sum(CASE WHEN Level = 'step' THEN 1 ELSE 0 END)) AS stepwise
FROM requests
WHERE Outlived = 0
GROUP BY Scenario, Outcome
ORDER BY scenario, requests DESC, outcome
