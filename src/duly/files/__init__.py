"""Where the bytes of attachments are kept: a folder, or an object store."""
