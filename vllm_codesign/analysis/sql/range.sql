-- What is there in the range: requests, how long the longest took, what makes figures doubtful.
WITH
-- include requests
SELECT
    toInt64(count(*)) AS requests,
    coalesce(toInt64(max(Length)), 0) AS longest_ns,
    coalesce(toInt64(min(Begun)), 0) AS first_ns,
    coalesce(toInt64(max(Begun + Length)), 0) AS last_ns,
    coalesce(toInt64(sum(Lossy)), 0) AS lossy,
    coalesce(toInt64(sum(Outlived)), 0) AS outlived
FROM requests
