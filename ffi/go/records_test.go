package vfioprobe

import "testing"

// growing is a list that has doubled each time that it is read, up to its last length.
func growing(last int) func([]int) (int, bool) {
	there := 1
	return func(array []int) (int, bool) {
		there = min(2*there, last)
		for i := range min(there, len(array)) {
			array[i] = i + 1
		}
		return there, there > len(array)
	}
}

func TestAListThatGrowsIsReadUntilItFits(t *testing.T) {
	for _, last := range []int{0, 1, 2, 3, 100_000} {
		array := make([]int, 1)
		count, fits := fit(&array, growing(last))
		if !fits || count != last {
			t.Fatalf("%d of %d, %d there, fits: %v", count, last, len(array), fits)
		}
		for i := range count {
			if array[i] != i+1 {
				t.Fatalf("%d at %d", array[i], i)
			}
		}
	}
}

func TestAListThatNeverFitsIsNone(t *testing.T) {
	array := make([]int, 1)
	reads := 0
	if count, fits := fit(&array, func(array []int) (int, bool) {
		reads++
		return len(array) + 1, true
	}); fits {
		t.Errorf("%d of %d after %d", len(array), count, reads)
	}
}
