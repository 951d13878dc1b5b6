import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;

/** The JDK's HTTP server, unmodified: it answers with the headers it was given, one line, {@code saw} and a JSON object. */
public final class Web {
    public static void main(String[] words) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(words[0])), 128);
        server.createContext("/", Web::answer);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        exchange.getRequestBody().readAllBytes();
        String path = member("PATH_INFO", String.valueOf(exchange.getRequestURI()));
        String headers = exchange.getRequestHeaders().entrySet().stream()
            .map(each -> ", " + member(each.getKey(), String.join(", ", each.getValue())))
            .collect(Collectors.joining());
        byte[] body = ("saw {" + path + headers + "}\n").getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    private static String member(String name, String value) {
        return text(name) + ": " + text(value);
    }

    private static String text(String value) {
        return value.chars()
            .mapToObj(c -> c >= ' ' && c < 127 && c != '"' && c != '\\' ? Character.toString(c) : String.format("\\u%04x", c))
            .collect(Collectors.joining("", "\"", "\""));
    }
}
