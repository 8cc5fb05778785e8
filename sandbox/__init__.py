"""A laptop's stand-in for production: PostgreSQL and an SQS emulator as local processes, and sample events."""
