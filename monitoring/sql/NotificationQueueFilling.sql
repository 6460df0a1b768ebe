-- Once it is full every commit that notifies fails, the application's INSERT among them.
SELECT 'NotificationQueueFilling' AS alert, 'page' AS severity, pg_notification_queue_usage() AS value,
       'of the notification queue is full (1 = all)' AS says
 WHERE pg_notification_queue_usage() > 0.5;
