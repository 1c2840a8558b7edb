"""Work that goes on without its client: jobs in a folder that several servers can share."""
