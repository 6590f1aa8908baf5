// Program holder is the workload of the cluster's pods: it opens the devices that the plugin's environment variables name, as a
// VM does, and holds them until it is ended.
//
//	holder hold          opens container, group and device of each address, prints them and waits
//	holder once          does the same and exits: an init container that passes its devices on
//	holder idle          opens nothing and waits
//	holder stuck FILE    holds, and writes to FILE every 100 ms: a frozen file system stops it in the kernel
//	holder group GROUP   holds a group by its number, without a device: a process of the host
//	holder exec PROGRAM ARGUMENT...
//	                     becomes the program, with `-device vfio-pci,host=ADDRESS` for each address: QEMU
//
// It does not try again if a group is held, as QEMU does not. Exit status 1: a step failed, and standard error names it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		arguments = []string{"hold"}
	}
	if arguments[0] == "exec" && len(arguments) > 1 {
		return become(arguments[1:])
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	switch role := arguments[0]; {
	case role == "idle" && len(arguments) == 1:
		fmt.Println("idle")
	case role == "group" && len(arguments) == 2:
		if _, err := openGroup(arguments[1]); err != nil {
			return err
		}
		fmt.Println("held", arguments[1])
	case (role == "hold" || role == "once") && len(arguments) == 1, role == "stuck" && len(arguments) == 2:
		if err := holdAll(); err != nil {
			return err
		}
		if role == "once" {
			return nil
		}
		if role == "stuck" {
			go writeForever(arguments[1])
		}
	default:
		return fmt.Errorf("usage: holder hold | once | idle | stuck FILE | group GROUP | exec PROGRAM ARGUMENT...")
	}
	<-end
	return nil
}

// holdAll opens every device that the environment names.
func holdAll() error {
	addresses, err := addressesOf(os.Environ())
	if err != nil {
		return err
	}
	vm, err := newContainer()
	if err != nil {
		return err
	}
	for _, address := range addresses {
		group, err := vm.open(address)
		if err != nil {
			return err
		}
		fmt.Println("held", address, "group", group)
	}
	return nil
}

// become executes a virtual machine monitor with the devices that the environment names.
func become(command []string) error {
	addresses, err := addressesOf(os.Environ())
	if err != nil {
		return err
	}
	for _, address := range addresses {
		command = append(command, "-device", "vfio-pci,host="+address)
	}
	return fmt.Errorf("cannot run %s: %w", command[0], syscall.Exec(command[0], command, os.Environ()))
}

func writeForever(path string) {
	for ; ; time.Sleep(100 * time.Millisecond) {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "holder:", err)
		}
	}
}
