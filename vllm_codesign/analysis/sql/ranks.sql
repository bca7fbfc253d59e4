    CASE
        WHEN intDiv(N * 50 + 99, 100) <= N - Having_it THEN 0
        ELSE Ordered[intDiv(N * 50 + 99, 100) - (N - Having_it)]
    END AS p50_ns,
    CASE
        WHEN intDiv(N * 95 + 99, 100) <= N - Having_it THEN 0
        ELSE Ordered[intDiv(N * 95 + 99, 100) - (N - Having_it)]
    END AS p95_ns
