"""ClickHouse over its HTTP interface: what a user names, the connection, the table, the loading."""
