// An unmodified server of Go: it tells each client who it seems to be, then echoes.
//
// Usage: peer listen PORT, or peer connect HOST PORT, which tells who is at the other end.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

func serve(connection net.Conn) {
	defer connection.Close()
	fmt.Println("accepted", connection.RemoteAddr())
	fmt.Fprintln(connection, connection.RemoteAddr())
	if _, err := io.Copy(connection, connection); err != nil {
		fmt.Println("lost", err)
	}
}

func listen(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go serve(connection)
	}
}

func connect(host, port string) error {
	connection, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err == nil {
		fmt.Println(connection.RemoteAddr())
		err = connection.Close()
	}
	return err
}

func main() {
	var err error
	if os.Args[1] == "listen" {
		err = listen(os.Args[2])
	} else {
		err = connect(os.Args[2], os.Args[3])
	}
	if err != nil {
		log.Fatal(err)
	}
}
