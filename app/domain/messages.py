"""The names of the Celery tasks. A message carries one id and nothing else: PostgreSQL holds the truth."""

INSPECT_MODEL = "lethe.inspect_model"
RUN_JOB = "lethe.run_job"
