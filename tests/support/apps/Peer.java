import java.io.IOException;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/**
 * An unmodified server of Java's sockets: it tells each client who it seems to be, then echoes.
 *
 * <p>Usage: Peer listen PORT, or Peer connect HOST PORT, which tells who is at the other end.
 */
public final class Peer {
    public static void main(String[] words) throws IOException {
        if (words[0].equals("listen")) {
            listen(Integer.parseInt(words[1]));
        } else {
            try (Socket socket = new Socket(words[1], Integer.parseInt(words[2]))) {
                System.out.println(socket.getRemoteSocketAddress());
            }
        }
    }

    private static void listen(int port) throws IOException {
        try (ServerSocket server = new ServerSocket(port)) {
            System.out.println("listening");
            while (true) {
                Socket socket = server.accept();
                new Thread(() -> serve(socket)).start();
            }
        }
    }

    private static void serve(Socket socket) {
        System.out.println("accepted " + socket.getRemoteSocketAddress());
        try (socket) {
            String greeting = socket.getRemoteSocketAddress() + "\n";
            socket.getOutputStream().write(greeting.getBytes(StandardCharsets.US_ASCII));
            socket.getInputStream().transferTo(socket.getOutputStream());
        } catch (IOException error) {
            System.out.println("lost " + error);
        }
    }
}
