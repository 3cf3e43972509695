"""What each field of INFO is called as a metric, as redis_exporter calls it.

So a dashboard made for that exporter, such as Grafana's 11835, shows the same here.
"""

from __future__ import annotations

GAUGES = {
    # Server
    "uptime_in_seconds": "uptime_in_seconds",
    # Clients
    "connected_clients": "connected_clients",
    "blocked_clients": "blocked_clients",
    "maxclients": "config_maxclients",
    "client_recent_max_input_buffer": "client_recent_max_input_buffer_bytes",
    "client_recent_max_output_buffer": "client_recent_max_output_buffer_bytes",
    "tracking_clients": "tracking_clients",
    # Memory
    "used_memory": "memory_used_bytes",
    "used_memory_rss": "memory_used_rss_bytes",
    "used_memory_peak": "memory_used_peak_bytes",
    "used_memory_overhead": "memory_used_overhead_bytes",
    "used_memory_startup": "memory_used_startup_bytes",
    "used_memory_dataset": "memory_used_dataset_bytes",
    "used_memory_lua": "memory_used_lua_bytes",
    "used_memory_scripts": "memory_used_scripts_bytes",
    "maxmemory": "memory_max_bytes",
    "mem_fragmentation_ratio": "mem_fragmentation_ratio",
    "mem_fragmentation_bytes": "mem_fragmentation_bytes",
    "mem_clients_normal": "mem_clients_normal",
    "mem_clients_slaves": "mem_clients_slaves",
    "mem_not_counted_for_evict": "mem_not_counted_for_eviction_bytes",
    "allocator_allocated": "allocator_allocated_bytes",
    "allocator_active": "allocator_active_bytes",
    "allocator_resident": "allocator_resident_bytes",
    "allocator_frag_ratio": "allocator_frag_ratio",
    "allocator_frag_bytes": "allocator_frag_bytes",
    "lazyfree_pending_objects": "lazyfree_pending_objects",
    "active_defrag_running": "active_defrag_running",
    # Persistence
    "loading": "loading_dump_file",
    "rdb_changes_since_last_save": "rdb_changes_since_last_save",
    "rdb_bgsave_in_progress": "rdb_bgsave_in_progress",
    "rdb_last_save_time": "rdb_last_save_timestamp_seconds",
    "rdb_last_bgsave_status": "rdb_last_bgsave_status",
    "rdb_last_bgsave_time_sec": "rdb_last_bgsave_duration_sec",
    "rdb_current_bgsave_time_sec": "rdb_current_bgsave_duration_sec",
    "rdb_last_cow_size": "rdb_last_cow_size_bytes",
    "aof_enabled": "aof_enabled",
    "aof_rewrite_in_progress": "aof_rewrite_in_progress",
    "aof_rewrite_scheduled": "aof_rewrite_scheduled",
    "aof_last_rewrite_time_sec": "aof_last_rewrite_duration_sec",
    "aof_current_rewrite_time_sec": "aof_current_rewrite_duration_sec",
    "aof_last_cow_size": "aof_last_cow_size_bytes",
    "aof_current_size": "aof_current_size_bytes",
    "aof_base_size": "aof_base_size_bytes",
    "aof_pending_bio_fsync": "aof_pending_bio_fsync",
    "aof_delayed_fsync": "aof_delayed_fsync",
    "aof_last_bgrewrite_status": "aof_last_bgrewrite_status",
    "aof_last_write_status": "aof_last_write_status",
    # Stats
    "expired_stale_perc": "expired_stale_percentage",
    "pubsub_channels": "pubsub_channels",
    "pubsub_patterns": "pubsub_patterns",
    "pubsubshard_channels": "pubsubshard_channels",
    "tracking_total_keys": "tracking_total_keys",
    "tracking_total_items": "tracking_total_items",
    "tracking_total_prefixes": "tracking_total_prefixes",
    "latest_fork_usec": "latest_fork_seconds",
    "total_error_replies": "total_error_replies",
    "unexpected_error_replies": "unexpected_error_replies",
    "sync_full": "replica_resyncs_full",
    "sync_partial_ok": "replica_partial_resync_accepted",
    "sync_partial_err": "replica_partial_resync_denied",
    # Replication
    "connected_slaves": "connected_slaves",
    "master_repl_offset": "master_repl_offset",
    "second_repl_offset": "second_repl_offset",
    "repl_backlog_active": "repl_backlog_is_active",
    "repl_backlog_size": "replication_backlog_bytes",
    "repl_backlog_histlen": "repl_backlog_history_bytes",
    "repl_backlog_first_byte_offset": "repl_backlog_first_byte_offset",
    "slave_repl_offset": "slave_repl_offset",
    "slave_priority": "slave_priority",
    "slave_read_only": "slave_read_only",
    # Cluster
    "cluster_enabled": "cluster_enabled",
    # Sentinel
    "sentinel_masters": "sentinel_masters",
    "sentinel_tilt": "sentinel_tilt",
    "sentinel_running_scripts": "sentinel_running_scripts",
    "sentinel_scripts_queue_length": "sentinel_scripts_queue_length",
    "sentinel_simulate_failure_flags": "sentinel_simulate_failure_flags",
}

COUNTERS = {
    "total_connections_received": "connections_received",
    "total_commands_processed": "commands_processed",
    "rejected_connections": "rejected_connections",
    "total_net_input_bytes": "net_input_bytes",
    "total_net_output_bytes": "net_output_bytes",
    "expired_keys": "expired_keys",
    "expired_time_cap_reached_count": "expired_time_cap_reached",
    "evicted_keys": "evicted_keys",
    "keyspace_hits": "keyspace_hits",
    "keyspace_misses": "keyspace_misses",
    "used_cpu_sys": "cpu_sys_seconds",
    "used_cpu_user": "cpu_user_seconds",
    "used_cpu_sys_children": "cpu_sys_children_seconds",
    "used_cpu_user_children": "cpu_user_children_seconds",
    "used_cpu_sys_main_thread": "cpu_sys_main_thread_seconds",
    "used_cpu_user_main_thread": "cpu_user_main_thread_seconds",
}

MASTER_LINK = {
    "master_link_status": "master_link_up",
    "master_last_io_seconds_ago": "master_last_io_seconds_ago",
    "master_sync_in_progress": "master_sync_in_progress",
}
"""What a replica says of its primary, labelled with the primary's host and port."""

INSTANCE = (
    "role", "redis_version", "redis_build_id", "redis_mode", "os", "maxmemory_policy", "tcp_port",
    "run_id", "process_id", "master_replid",
)  # fmt: skip
"""Labels of `redis_instance_info`."""

SENTINEL_SETTINGS = {
    "quorum": "sentinel_master_setting_ckquorum",
    "failover-timeout": "sentinel_master_setting_failover_timeout",
    "parallel-syncs": "sentinel_master_setting_parallel_syncs",
    "down-after-milliseconds": "sentinel_master_setting_down_after_milliseconds",
    "config-epoch": "sentinel_master_config_epoch",
}
