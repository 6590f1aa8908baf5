// Package ctext returns the C library's words, for a test of the Go package: a test cannot call C.
package ctext

// #include "../../vfio_probe.h"
import "C"

// Kind calls vfp_kind_text.
func Kind(value int32) string { return C.GoString(C.vfp_kind_text(C.int32_t(value))) }

// SRIOV calls vfp_sriov_text.
func SRIOV(value int32) string { return C.GoString(C.vfp_sriov_text(C.int32_t(value))) }

// Via calls vfp_via_text.
func Via(value int32) string { return C.GoString(C.vfp_via_text(C.int32_t(value))) }

// InPod calls vfp_in_pod_text.
func InPod(value int32) string { return C.GoString(C.vfp_in_pod_text(C.int32_t(value))) }

// PIDNamespace calls vfp_pid_namespace_text.
func PIDNamespace(value int32) string { return C.GoString(C.vfp_pid_namespace_text(C.int32_t(value))) }

// State calls vfp_state_text.
func State(value int32) string { return C.GoString(C.vfp_state_text(C.int32_t(value))) }

// UnknownReason calls vfp_unknown_reason_text.
func UnknownReason(value int32) string {
	return C.GoString(C.vfp_unknown_reason_text(C.int32_t(value)))
}

// Evidence calls vfp_evidence_text.
func Evidence(value int32) string { return C.GoString(C.vfp_evidence_text(C.int32_t(value))) }

// Peek calls vfp_peek_text.
func Peek(value int32) string { return C.GoString(C.vfp_peek_text(C.int32_t(value))) }

// Event calls vfp_event_text.
func Event(value int32) string { return C.GoString(C.vfp_event_text(C.int32_t(value))) }

// Status calls vfp_status_text.
func Status(value int32) string { return C.GoString(C.vfp_status_text(C.int32_t(value))) }

// Presence calls vfp_presence_text.
func Presence(value int32) string { return C.GoString(C.vfp_presence_text(C.int32_t(value))) }

// Node calls vfp_node_text.
func Node(value int32) string { return C.GoString(C.vfp_node_text(C.int32_t(value))) }
