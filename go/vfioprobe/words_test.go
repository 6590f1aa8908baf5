package vfioprobe

import (
	"encoding"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"testing"

	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/ctext"
)

// enumeration has the values of one type from the least to the greatest that the C library knows, and one more on each side.
type enumeration struct {
	values []value
	text   func(int32) string
}

type value interface {
	fmt.Stringer
	encoding.TextMarshaler
}

func around[T interface {
	~int32
	value
}](words map[T]string) []value {
	var values []value
	for known := range words {
		values = append(values, known)
	}
	return values
}

var enumerations = map[string]enumeration{
	"Kind":          {around(kindWords), ctext.Kind},
	"SRIOV":         {around(sriovWords), ctext.SRIOV},
	"Via":           {around(viaWords), ctext.Via},
	"InPod":         {around(inPodWords), ctext.InPod},
	"PIDNamespace":  {around(pidNamespaceWords), ctext.PIDNamespace},
	"State":         {around(stateWords), ctext.State},
	"UnknownReason": {around(unknownReasonWords), ctext.UnknownReason},
	"Evidence":      {around(evidenceWords), ctext.Evidence},
	"Peek":          {around(peekWords), ctext.Peek},
	"EventKind":     {around(eventWords), ctext.Event},
	"Presence":      {around(presenceWords), ctext.Presence},
	"NodeKind":      {around(nodeWords), ctext.Node},
	"ErrorKind":     {around(errorWords), ctext.Status},
}

func TestWordsAreThoseOfTheLibrary(t *testing.T) {
	for name, of := range enumerations {
		for _, value := range of.values {
			number := int32(reflect.ValueOf(value).Int())
			if got, want := value.String(), of.text(number); got != want {
				t.Errorf("%s %d: %q, the library says %q", name, number, got, want)
			}
		}
		// A word of the library that has no value here.
		for number := int32(-40); number < 40; number++ {
			text := of.text(number)
			known := false
			for _, value := range of.values {
				known = known || int32(reflect.ValueOf(value).Int()) == number
			}
			if !known && text != "?" && !(name == "ErrorKind" && number >= 0) {
				t.Errorf("%s has no value %d, %q", name, number, text)
			}
		}
	}
}

func TestTextsAreReadBack(t *testing.T) {
	for name, of := range enumerations {
		for _, value := range of.values {
			text, err := value.MarshalText()
			into := reflect.New(reflect.TypeOf(value))
			if err == nil {
				err = into.Interface().(encoding.TextUnmarshaler).UnmarshalText(text)
			}
			if err != nil || into.Elem().Interface() != value {
				t.Errorf("%s: %q gives %v, %v", name, text, into.Elem(), err)
			}
		}
	}
	if text := State(77).String(); text != "State(77)" {
		t.Error(text)
	}
}

func TestOtherTextsAreRefused(t *testing.T) {
	for _, text := range []string{"", "Free", "free ", "1", "State(1)", "State(077)", "State(99999999999)", "State(7", "Kind(77)"} {
		state := Held
		if err := state.UnmarshalText([]byte(text)); !errors.Is(err, ErrInvalid) || state != Held {
			t.Errorf("%q: %v, %v", text, state, err)
		}
	}
	for _, text := range []string{"", "-1", "4294967295", "4294967296", "051", "+5", " 5", `"5"`} {
		group := GroupID(7)
		if err := group.UnmarshalText([]byte(text)); !errors.Is(err, ErrInvalid) || group != 7 {
			t.Errorf("%q: %v, %v", text, group, err)
		}
	}
}

func TestValuesAreReadBackFromJSON(t *testing.T) {
	snapshot := Snapshot{
		Devices: []Device{{ID: "0000:1b:00.0", Vendor: 0x10de, Group: NoGroup, NUMANode: -1, Cdev: -1, Kind: KindMdev}},
		Groups: []GroupSnapshot{{
			WatchedGroup: WatchedGroup{ID: 51, Occupancy: Occupancy{51, Unknown, UnknownErrno, 5}, Peek: LooksHeld},
			Holders:      []Holder{{Group: 51, PID: 7, Command: "qemu", Via: ViaCdev, InPod: InPodYes, PodUID: "x"}},
		}},
		Coverage: ScanCoverage{Processes: 9, PIDNamespace: PIDNamespaceHost},
		Errors:   []*Error{{Kind: ErrorMalformed, Group: NoGroup, Text: "nonsense"}},
	}
	text, err := json.Marshal(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var back Snapshot
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, snapshot) {
		t.Errorf("%s\n%+v\n%+v %v", text, snapshot, back, err)
	}
	byGroup, err := json.Marshal(map[GroupID]Event{51: {Kind: EventHeld, Group: 51}})
	if want := `{"51":{"kind":"held","device":"","group":51}}`; err != nil || string(byGroup) != want {
		t.Errorf("%s %v", byGroup, err)
	}
	for _, wrong := range []string{`"51"`, `"none"`, `-1`, `1.5`, `4294967296`} {
		var group GroupID
		if err := json.Unmarshal([]byte(wrong), &group); err == nil {
			t.Errorf("%s is group %v", wrong, group)
		}
	}
}

func TestFlagsReadWords(t *testing.T) {
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	var state State
	flags.TextVar(&state, "state", Unknown, "")
	if err := flags.Parse([]string{"-state", "held"}); err != nil || state != Held {
		t.Error(state, err)
	}
}

// A text that is read is what String returns for the value, for every type.
func FuzzUnmarshalText(f *testing.F) {
	for _, of := range enumerations {
		for _, value := range of.values {
			f.Add([]byte(value.String()))
		}
	}
	f.Add([]byte("State(77)"))
	f.Add([]byte("51"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var values []encoding.TextUnmarshaler
		for _, of := range enumerations {
			into := reflect.New(reflect.TypeOf(of.values[0]))
			values = append(values, into.Interface().(encoding.TextUnmarshaler))
		}
		for _, into := range append(values, new(GroupID)) {
			if err := into.UnmarshalText(text); err == nil {
				if got := into.(fmt.Stringer).String(); got != string(text) {
					t.Errorf("%T: %q is read as %q", into, text, got)
				}
			} else if !errors.Is(err, ErrInvalid) {
				t.Errorf("%T: %v", into, err)
			}
		}
	})
}
