package vfioprobe

import "testing"

// growing returns a list that doubles at each read, up to its last length.
func growing(last int) func([]int) (int, bool) {
	length := 1
	return func(array []int) (int, bool) {
		length = min(2*length, last)
		for i := range min(length, len(array)) {
			array[i] = i + 1
		}
		return length, length > len(array)
	}
}

func TestGrowingListIsReadUntilItFits(t *testing.T) {
	for _, last := range []int{0, 1, 2, 3, 100_000} {
		array := make([]int, 1)
		count, fits := fit(&array, growing(last))
		if !fits || count != last {
			t.Fatalf("%d of %d, array of %d, fits: %v", count, last, len(array), fits)
		}
		for i := range count {
			if array[i] != i+1 {
				t.Fatalf("%d at %d", array[i], i)
			}
		}
	}
}

func TestListThatNeverFitsIsAnError(t *testing.T) {
	array := make([]int, 1)
	reads := 0
	if count, fits := fit(&array, func(array []int) (int, bool) {
		reads++
		return len(array) + 1, true
	}); fits {
		t.Errorf("%d of %d after %d", len(array), count, reads)
	}
}
