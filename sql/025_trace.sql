-- The root of a generation's trace, for all replicas: a W3C traceparent, drawn with the first claim where tracing is on.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS traceparent text;
