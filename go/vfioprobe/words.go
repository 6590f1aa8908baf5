//go:build cgo

package vfioprobe

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The words of all values, which String, JSON, flag.TextVar and log/slog print. They are those of the C library, which a test
// compares; a call of C would cost more.
var (
	kindWords         = map[Kind]string{KindPCI: "pci", KindMdev: "mdev", KindVendorVF: "vendor-vf"}
	sriovWords        = map[SRIOV]string{SRIOVNone: "none", SRIOVPhysical: "physical", SRIOVVirtual: "virtual"}
	viaWords          = map[Via]string{ViaGroup: "group", ViaDevice: "device", ViaCdev: "cdev"}
	inPodWords        = map[InPod]string{InPodUnknown: "unknown", InPodNo: "no", InPodYes: "yes"}
	pidNamespaceWords = map[PIDNamespace]string{
		PIDNamespaceUnknown: "unknown", PIDNamespaceHost: "host", PIDNamespaceForeign: "foreign",
	}
	stateWords         = map[State]string{Unknown: "unknown", Free: "free", Held: "held", Absent: "absent"}
	unknownReasonWords = map[UnknownReason]string{
		UnknownNone: "none", UnknownDenied: "denied", UnknownTimedOut: "timed-out", UnknownErrno: "errno",
		UnknownNotProbed: "not-probed",
	}
	evidenceWords = map[Evidence]string{
		EvidenceNone: "none", EvidenceOpen: "open", EvidenceEnable: "enable", EvidenceNode: "node",
		EvidenceHolder: "holder",
	}
	peekWords = map[Peek]string{
		PeekNone: "none", LooksFree: "looks-free", LooksHeld: "looks-held", PeekUnavailable: "unavailable",
	}
	eventWords = map[EventKind]string{
		EventBound: "bound", EventUnbound: "unbound", EventHeld: "held", EventFreed: "freed",
		EventChanged: "changed", EventRescan: "rescan", EventReady: "ready",
	}
	presenceWords = map[Presence]string{
		PresenceNotChecked: "not-checked", PresencePresent: "present", PresenceLost: "lost",
	}
	nodeWords = map[NodeKind]string{
		NodeContainer: "container", NodeGroup: "group", NodeIOMMUFD: "iommufd", NodeCdev: "cdev",
	}
	errorWords = map[ErrorKind]string{
		ErrorInvalid: "invalid", ErrorMissing: "missing", ErrorDenied: "denied", ErrorMalformed: "malformed",
		ErrorTooLong: "too-long", ErrorSystem: "system", ErrorPanic: "panic", ErrorUnsupported: "unsupported",
	}
)

// word returns the word of a value, or TYPE(NUMBER) for a value of a newer library.
func word[T ~int32](words map[T]string, name string, value T) string {
	if text, ok := words[value]; ok {
		return text
	}
	return name + "(" + strconv.Itoa(int(value)) + ")"
}

// parse sets value to the one that word returns text for. It leaves value as it is if there is none.
func parse[T ~int32](words map[T]string, name string, text []byte, value *T) error {
	for known, one := range words {
		if one == string(text) {
			*value = known
			return nil
		}
	}
	if inner, ok := strings.CutPrefix(string(text), name+"("); ok {
		number, err := strconv.ParseInt(strings.TrimSuffix(inner, ")"), 10, 32)
		if err == nil && word(words, name, T(number)) == string(text) {
			*value = T(number)
			return nil
		}
	}
	known := slices.Sorted(maps.Values(words))
	return invalid(fmt.Sprintf("%q is no %s: it is one of %s", text, name, strings.Join(known, ", ")))
}

// String returns "pci", "mdev" or "vendor-vf".
func (k Kind) String() string { return word(kindWords, "Kind", k) }

// MarshalText returns the text of String.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (k *Kind) UnmarshalText(text []byte) error { return parse(kindWords, "Kind", text, k) }

// String returns "none", "physical" or "virtual".
func (s SRIOV) String() string { return word(sriovWords, "SRIOV", s) }

// MarshalText returns the text of String.
func (s SRIOV) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (s *SRIOV) UnmarshalText(text []byte) error { return parse(sriovWords, "SRIOV", text, s) }

// String returns "group", "device" or "cdev".
func (v Via) String() string { return word(viaWords, "Via", v) }

// MarshalText returns the text of String.
func (v Via) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (v *Via) UnmarshalText(text []byte) error { return parse(viaWords, "Via", text, v) }

// String returns "yes", "no" or "unknown".
func (i InPod) String() string { return word(inPodWords, "InPod", i) }

// MarshalText returns the text of String.
func (i InPod) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (i *InPod) UnmarshalText(text []byte) error { return parse(inPodWords, "InPod", text, i) }

// String returns "host", "foreign" or "unknown".
func (n PIDNamespace) String() string { return word(pidNamespaceWords, "PIDNamespace", n) }

// MarshalText returns the text of String.
func (n PIDNamespace) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (n *PIDNamespace) UnmarshalText(text []byte) error {
	return parse(pidNamespaceWords, "PIDNamespace", text, n)
}

// String returns "free", "held", "absent" or "unknown".
func (s State) String() string { return word(stateWords, "State", s) }

// MarshalText returns the text of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (s *State) UnmarshalText(text []byte) error { return parse(stateWords, "State", text, s) }

// String returns "none", "denied", "timed-out", "errno" or "not-probed".
func (r UnknownReason) String() string { return word(unknownReasonWords, "UnknownReason", r) }

// MarshalText returns the text of String.
func (r UnknownReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (r *UnknownReason) UnmarshalText(text []byte) error {
	return parse(unknownReasonWords, "UnknownReason", text, r)
}

// String returns "none", "open", "enable", "node" or "holder".
func (e Evidence) String() string { return word(evidenceWords, "Evidence", e) }

// MarshalText returns the text of String.
func (e Evidence) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (e *Evidence) UnmarshalText(text []byte) error { return parse(evidenceWords, "Evidence", text, e) }

// String returns "looks-free", "looks-held", "unavailable" or "none".
func (p Peek) String() string { return word(peekWords, "Peek", p) }

// MarshalText returns the text of String.
func (p Peek) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (p *Peek) UnmarshalText(text []byte) error { return parse(peekWords, "Peek", text, p) }

// String returns "bound", "unbound", "held", "freed", "changed", "rescan" or "ready".
func (k EventKind) String() string { return word(eventWords, "EventKind", k) }

// MarshalText returns the text of String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (k *EventKind) UnmarshalText(text []byte) error { return parse(eventWords, "EventKind", text, k) }

// String returns the word for the kind: "missing", "denied", "malformed", "too-long", "system", and so on.
func (k ErrorKind) String() string { return word(errorWords, "ErrorKind", k) }

// MarshalText returns the text of String.
func (k ErrorKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (k *ErrorKind) UnmarshalText(text []byte) error { return parse(errorWords, "ErrorKind", text, k) }

// String returns "present", "lost" or "not-checked".
func (p Presence) String() string { return word(presenceWords, "Presence", p) }

// MarshalText returns the text of String.
func (p Presence) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (p *Presence) UnmarshalText(text []byte) error { return parse(presenceWords, "Presence", text, p) }

// String returns "container", "group", "iommufd" or "cdev".
func (k NodeKind) String() string { return word(nodeWords, "NodeKind", k) }

// MarshalText returns the text of String.
func (k NodeKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (k *NodeKind) UnmarshalText(text []byte) error { return parse(nodeWords, "NodeKind", text, k) }
