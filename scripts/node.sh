# shellcheck shell=bash
# Drives a simulated node of eight GPUs. To be sourced after languages.sh.

# start_node: starts it and sets node_root, the directory that stands for its root directory. Call end_node at the end.
start_node() {
    simulated_node
    coproc NODE { exec "$VFIO_SIM_NODE" serve --eight-gpus; }
    # shellcheck disable=SC2153  # coproc sets it
    node_pid=$NODE_PID
    # Copies: subshells, in which orders are given too, do not have the descriptors of a coprocess.
    exec {node_orders}>&"${NODE[1]}" {node_replies}<&"${NODE[0]}"
    eval "exec ${NODE[1]}>&- ${NODE[0]}<&-"
    local reply
    read -r reply <&"$node_replies" || die "the simulated node does not start"
    reply=${reply#*'"root":"'}
    # shellcheck disable=SC2034  # the sourcing scripts use it
    node_root=${reply%%'"'*}
}

# order JSON: gives an order and prints the reply. Fails if the reply is an error.
order() {
    local reply
    echo "$1" >&"$node_orders" && read -r reply <&"$node_replies" && echo "$reply" && [[ $reply != *'"error"'* ]]
}

# start_vm ADDRESS [POD_UID]: starts a process that holds the device, and sets vm_pid.
start_vm() {
    vm_pid=$(order "{\"start_vm\":{\"addresses\":[\"$1\"]${2:+,\"pod_uid\":\"$2\"}}}" | tr -dc 0-9)
    [ -n "$vm_pid" ]
}

# end_node: ends the node and its VMs, and deletes its directory.
end_node() {
    [ -n "${node_pid:-}" ] || return 0
    exec {node_orders}>&-
    wait "$node_pid"
    node_pid=
}
