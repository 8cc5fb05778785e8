"""Login events from SQS into `staging.raw_logins`: receive, land, delete, and never lose one on the way."""
