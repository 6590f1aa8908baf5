package vfioprobe

// #include "vfio_probe.h"
import "C"

// EventKind is the kind of an [Event].
type EventKind int32

// Kinds of [Event]. A newer library may return other kinds.
const (
	// EventBound means that a device was bound to a VFIO driver, or that the watch found a bound device for the first
	// time.
	EventBound EventKind = C.VFP_EVENT_BOUND
	// EventUnbound means that a device is no longer bound to a VFIO driver.
	EventUnbound EventKind = C.VFP_EVENT_UNBOUND
	// EventHeld means that a group became held.
	EventHeld EventKind = C.VFP_EVENT_HELD
	// EventFreed means that a group became free, or that the watch found it free at its start.
	EventFreed EventKind = C.VFP_EVENT_FREED
	// EventChanged means that the device node, the members or the holders of a group changed, or that the watch found the
	// group neither free nor held at its start.
	EventChanged EventKind = C.VFP_EVENT_CHANGED
	// EventRescan means that events were lost: the kernel dropped uevents, or more than 1024 events were queued during a
	// [Watch.WaitFor]. The watch itself is up to date.
	EventRescan EventKind = C.VFP_EVENT_RESCAN
	// EventReady means that the watch has read everything once. It comes once, after the events of the devices and groups
	// that the watch found. Without an event before it, no device is bound.
	EventReady EventKind = C.VFP_EVENT_READY
)

// Event is an event of a [Watch].
type Event struct {
	// Kind is the kind of event.
	Kind EventKind `json:"kind"`
	// Device is the id of the device of a bound or unbound event, else "".
	Device string `json:"device"`
	// Group is the group of a held, freed or changed event, else [NoGroup].
	Group GroupID `json:"group"`
}
