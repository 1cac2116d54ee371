"""What web and worker must agree on: settings, tables, the job's states, storage, queue, errors, logs."""
