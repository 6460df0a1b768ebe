-- More than one in 200 came later than five minutes after KIE had made it: the windows and speeds of the rule.
SELECT 'DeliverySLOBurn' AS alert, severity, round(100.0 * late / total, 2)::float8 AS value,
       'percent late, ' || late || ' of ' || total || ' in the last ' || long AS says
  FROM (VALUES (interval '1 hour', interval '5 minutes', 14.4, 'page'),
               (interval '6 hours', interval '30 minutes', 6, 'page'),
               (interval '1 day', interval '2 hours', 3, 'ticket'),
               (interval '3 days', interval '6 hours', 1, 'ticket')) AS pace (long, short, speed, severity)
 CROSS JOIN LATERAL (
       SELECT count(*) AS total, count(*) FILTER (WHERE tardy) AS late,
              count(*) FILTER (WHERE recent) AS recently, count(*) FILTER (WHERE recent AND tardy) AS recently_late
         FROM (SELECT delivered_at - completed_at > interval '5 minutes' AS tardy,
                      delivered_at > now() - short AS recent
                 FROM reconciler.work
                WHERE delivered_at > now() - long AND completed_at IS NOT NULL) AS one) AS counted
 WHERE late > 2 AND late > total * speed * 0.005 AND recently_late > recently * speed * 0.005;
