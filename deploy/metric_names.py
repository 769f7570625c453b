"""What other people call the figures that we have too."""

from __future__ import annotations

# ours; SGLang's, vLLM's, the Gateway API's
ELSEWHERE: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("levelhead_running_requests",
     ("sglang:num_running_reqs", "vllm:num_requests_running", "TotalRunningRequests")),
    ("levelhead_waiting_requests",
     ("sglang:num_queue_reqs", "vllm:num_requests_waiting", "TotalQueuedRequests")),
    ("levelhead_kv_usage_ratio",
     ("sglang:token_usage", "vllm:kv_cache_usage_perc", "KVCacheUtilization")),
    ("levelhead_kv_used_tokens", ("sglang:num_used_tokens", "", "")),
    ("levelhead_kv_capacity_tokens", ("sglang:max_total_num_tokens", "", "")),
    ("levelhead_group_prompt_tokens_total",
     ("sglang:prompt_tokens_total", "vllm:prompt_tokens_total", "")),
    ("levelhead_group_output_tokens_total",
     ("sglang:generation_tokens_total", "vllm:generation_tokens_total", "")),
    ("levelhead_group_cached_tokens_total",
     ("sglang:cached_tokens_total", "vllm:prefix_cache_hits_total", "")),
    ("levelhead_group_retractions_total",
     ("sglang:num_retracted_requests_total", "vllm:num_preemptions_total", "")),
    ("levelhead_time_to_first_token_seconds",
     ("sglang:time_to_first_token_seconds", "vllm:time_to_first_token_seconds", "")),
    ("levelhead_inter_token_latency_seconds",
     ("sglang:inter_token_latency_seconds", "vllm:inter_token_latency_seconds", "")),
    ("levelhead_e2e_request_latency_seconds",
     ("sglang:e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds", "")),
    ("levelhead_dp_attention_steps_total", ("sglang:dp_attention_steps", "", "")),
    ("levelhead_dp_attention_tokens_total", ("sglang:dp_attention_tokens", "", "")),
    ("levelhead_dp_attention_sync_wait_seconds", ("sglang:dp_attention_sync_wait_seconds", "", "")),
    ("levelhead_dp_attention_token_imbalance_ratio",
     ("sglang:dp_attention_token_imbalance_ratio", "", "")),
)  # fmt: skip
