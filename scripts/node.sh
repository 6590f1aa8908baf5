# shellcheck shell=bash
# A simulated node of eight GPUs that a script drives. To be sourced after languages.sh.

# start_node: starts it; sets node_root, the folder that stands for /. end_node must follow.
start_node() {
    simulated_node
    coproc NODE { exec "$VFIO_SIM_NODE" serve --eight-gpus; }
    # shellcheck disable=SC2153  # coproc sets it
    node_pid=$NODE_PID
    # Copies: a coprocess' own descriptors are closed in subshells, in which orders are given too.
    exec {node_orders}>&"${NODE[1]}" {node_replies}<&"${NODE[0]}"
    eval "exec ${NODE[1]}>&- ${NODE[0]}<&-"
    local reply
    read -r reply <&"$node_replies" || die "the simulated node does not start"
    reply=${reply#*'"root":"'}
    # shellcheck disable=SC2034  # for whoever sources this
    node_root=${reply%%'"'*}
}

# order JSON: gives an order; prints the reply. Fails if the node could not do it.
order() {
    local reply
    echo "$1" >&"$node_orders" && read -r reply <&"$node_replies" && echo "$reply" && [[ $reply != *'"error"'* ]]
}

# start_vm ADDRESS [POD_UID]: sets vm_pid.
start_vm() {
    vm_pid=$(order "{\"start_vm\":{\"addresses\":[\"$1\"]${2:+,\"pod_uid\":\"$2\"}}}" | tr -dc 0-9)
    [ -n "$vm_pid" ]
}

# end_node: ends it with its machines; its folder goes.
end_node() {
    [ -n "${node_pid:-}" ] || return 0
    exec {node_orders}>&-
    wait "$node_pid"
    node_pid=
}
