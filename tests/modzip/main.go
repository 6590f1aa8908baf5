// Modzip packs a directory as the zip file of a Go module, with the code and the checks that the go command and proxies use.
//
//	modzip DIRECTORY MODULE VERSION ZIP
//
// It fails if a proxy would refuse the module: a name that is not portable, two names that differ in case only, a file or a
// whole that is too large. A module within the directory is left out.
package main

import (
	"log"
	"os"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: modzip DIRECTORY MODULE VERSION ZIP")
	}
	directory, version, name := os.Args[1], module.Version{Path: os.Args[2], Version: os.Args[3]}, os.Args[4]
	file, err := os.Create(name)
	if err != nil {
		log.Fatal(err)
	}
	// It checks the directory as CheckDir does.
	if err := zip.CreateFromDir(file, version, directory); err != nil {
		log.Fatal(err)
	}
	if err := file.Close(); err != nil {
		log.Fatal(err)
	}
	// As the go command checks what a proxy has sent.
	checked, err := zip.CheckZip(version, name)
	if err == nil {
		err = checked.Err()
	}
	if err != nil {
		log.Fatal(err)
	}
	for _, file := range checked.Valid {
		os.Stdout.WriteString(file + "\n")
	}
}
