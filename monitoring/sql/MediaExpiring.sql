-- Results that are known and not stored: past half of the 24 hours that their addresses are good for, and past half of
-- the 14 days after which KIE deletes them (the deadline kept is the one of the 24 hours).
SELECT 'MediaExpiring' AS alert, 'page' AS severity, count(*)::float8 AS value,
       clock || ' clock, first: ' || (array_agg(generation_id ORDER BY media_deadline))[1] AS says
  FROM reconciler.work
  JOIN (VALUES ('24h', interval '12 hours'), ('14d', interval '-6 days')) AS half (clock, left_over)
    ON media_deadline < now() + left_over
 WHERE due_at IS NOT NULL
 GROUP BY clock;
