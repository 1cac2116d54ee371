"""Code shared by web and worker: settings, tables, job states, storage, queue, errors, logs."""
